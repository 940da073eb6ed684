// The pipeline and what it is built on hand LibTorch around in files that include none of its
// headers: a translation unit that sees them takes a minute to compile.
#include "evolora/model/base_model.h"
#include "evolora/model/text_model.h"
#include "evolora/pipeline/base_store.h"
#include "evolora/pipeline/export_adapter.h"
#include "evolora/pipeline/home.h"
#include "evolora/pipeline/measure.h"
#include "evolora/pipeline/report.h"
#include "evolora/pipeline/run.h"
#include "evolora/pipeline/shift.h"
#include "evolora/pipeline/training_process.h"
#include "evolora/pipeline/version_store.h"
#include "evolora/trainers/lora_trainer.h"

#ifdef C10_API
#error "a LibTorch header came in"
#endif
