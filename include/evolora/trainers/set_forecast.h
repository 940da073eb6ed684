#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "evolora/trainers/resident_trainer.h"
#include "evolora/trainers/run_forecast.h"
#include "evolora/trainers/sweep.h"

namespace evolora {

// What a resident trainer will do with many jobs over one base.
struct SetForecast {
  int64_t num_jobs = 0;
  int64_t most_at_once = 0;     // jobs in one step
  int64_t steps = 0;            // in which any job takes one
  int64_t tokens = 0;           // of all steps of all jobs
  int64_t labelled_tokens = 0;  // likewise
  int64_t computed_tokens = 0;  // through the model
  int64_t trainable_parameters = 0;
  double computed_flops = 0;
  // Peak: the base once, what the jobs at work have of their own, one checkpoint; of activations an
  // upper bound.
  MemoryForecast memory;
  // Of jobs on the device path, which work one at a time: the dearest one's.
  std::optional<DeviceMemoryForecast> device_memory;
  std::string memory_basis;
};

// Of jobs that are trained in this order: `jobs` are ForecastRun's of jobs of one base that the
// trainer takes. Walks through their admission as ResidentTrainer does it.
SetForecast ForecastJobs(absl::Span<const RunForecast> jobs, const ResidentLimits& limits);

// Of a whole sweep. Which trials go on is not known: of each rung the dearest, so that all but
// num_jobs and most_at_once are upper bounds. The passes over held-out rows count, too.
// Errors: those of RunSweep for what it checks before the first step, but a folder; those of
// ForecastRun, with the trial's name.
absl::StatusOr<SetForecast> ForecastSweep(const std::vector<SweepTrial>& trials,
                                          const SweepOptions& options);

}  // namespace evolora
