#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "evolora/trainers/sweep.h"

namespace evolora {

// What of a sweep is decided before it begins.

// InvalidArgument as RunSweep gives it, but for the folder.
absl::Status CheckSweep(const std::vector<SweepTrial>& trials, const SweepOptions& options);

// Steps at which a trial of `total_steps` is compared at rung `rung`, from 0.
int64_t StepsAtRung(int64_t total_steps, const SweepOptions& options, int64_t rung);

// Of n trials that entered a rung, those that may go on from it.
int64_t NumSurvivors(int64_t n, const SweepOptions& options);

}  // namespace evolora
