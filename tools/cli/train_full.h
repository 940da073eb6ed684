#pragma once

#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "evolora/model/hf_folder.h"
#include "evolora/pipeline/base_store.h"
#include "evolora/trainers/full_trainer.h"
#include "train_job.h"

namespace evolora::cli {

// What a whole trained base is written beside: its config.json's ids and its tokenizer, which are
// those of the base it is made from. Asked for before the first step: Unimplemented when no
// config.json can say what the base is. A tokenizer that cannot be written is a warning.
absl::StatusOr<HfFolderExtras> PrepareFolder(const std::string& home, const LoadedBase& base,
                                             std::vector<std::string>& warnings);

// Writes the summary, then the folder.
absl::Status WriteResult(const JobFiles& files, const TrainedBase& trained,
                         const HfFolderExtras& extras);

}  // namespace evolora::cli
