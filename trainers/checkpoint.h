#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "evolora/core/file_system.h"
#include "evolora/trainers/lora_trainer.h"
#include "flat_parameters.h"

namespace evolora {

// What `work_dir`/checkpoint.h5 is bound to: base, data, recipe and initial adapter.
std::string JobDigest(const TrainingJob& job);

// Writes the state after the last step of `history`: values, moments, history.
absl::Status SaveCheckpoint(FileSystem& fs, const std::string& work_dir,
                            const std::string& job_digest, const FlatParameters& parameters,
                            const std::vector<StepReport>& history);

// Restores it; nullopt when there is no checkpoint. FailedPrecondition when it belongs to another
// job, DataLoss when it is damaged.
absl::StatusOr<std::optional<std::vector<StepReport>>> LoadCheckpoint(FileSystem& fs,
                                                                      const std::string& work_dir,
                                                                      const std::string& job_digest,
                                                                      FlatParameters& parameters);

}  // namespace evolora
