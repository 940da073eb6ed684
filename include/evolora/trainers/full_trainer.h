#pragma once

#include <memory>
#include <stop_token>
#include <vector>

#include "absl/status/statusor.h"
#include "evolora/core/clock.h"
#include "evolora/core/file_system.h"
#include "evolora/trainers/lora_trainer.h"

namespace evolora {

// A base after training. Its config is that of the base it was made from.
struct TrainedBase {
  std::shared_ptr<const LlamaWeights> weights;
  std::vector<StepReport> history;  // every step, those before a resume included
  double total_flops = 0;           // as TrainedAdapter's, the gradients of the weights included
};

// Trains every weight of job.base, which itself stays as it is: recipe.method kFull. What of
// TrainLora's contract (lora_trainer.h) is not about adapters holds here too: loss, exactness and
// resuming, files, ranks, threads and errors.
//
// Memory:   four times the weights beside the base: values, gradients and two moments; nine times
//           more while a checkpoint is written. On a device (options.device) these four lie there,
//           and the weights once more as products read them
// Errors:   InvalidArgument  also: another method, `init`
absl::StatusOr<TrainedBase> TrainFull(const TrainingJob& job, const TrainOptions& options,
                                      FileSystem& fs, const Clock& clock, std::stop_token stop);

}  // namespace evolora
