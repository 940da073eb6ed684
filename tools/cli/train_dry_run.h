#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "evolora/trainers/lora_trainer.h"
#include "evolora/trainers/set_forecast.h"
#include "options.h"

namespace evolora::cli {

// What `train --dry-run` shows: the run's forecast where `options` say, and how long it takes at
// `gflops` (0 = measured now), with the basis of the estimate. One JSON object with --json; nothing
// is written.
absl::Status ShowDryRun(const GlobalOptions& global, const TrainingJob& job,
                        const ForecastOptions& options, const std::vector<std::string>& warnings,
                        double gflops);

// The same of many jobs over one base, of which `any` is one. `upper_bound`: of a sweep.
void ShowSetDryRun(const GlobalOptions& global, const TrainingJob& any, const SetForecast& forecast,
                   bool upper_bound, double gflops);

}  // namespace evolora::cli
