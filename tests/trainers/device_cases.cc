#include "trainers/device_cases.h"

#include <cmath>

#include "absl/strings/str_cat.h"

namespace evolora::testing {

Gradient ReferenceGradient(const Case& c) { return Compute(c, MakeReferencePath); }

Gradient DeviceGradient(const Case& c, const DevicePathOptions& options) {
  const auto make = [&](const GradientPathInputs& inputs) {
    return MakeDevicePath(inputs, options);
  };
  return Compute(c, make, /*factor=*/0.1, options.device);
}

TrainingJob DeviceJob() {
  const Case c = MakeCase("job", [](Case& change) { change.config.qk_norm = true; });
  TrainingJob job{.base = RandomWeights(c.config, 7),
                  .base_name = "tiny",
                  .base_weights_fingerprint = "tiny-7",
                  .rows = c.rows,
                  .recipe = c.recipe};
  job.recipe.learning_rate = 1e-2;
  job.recipe.lora_plus_ratio = 4;
  job.recipe.weight_decay = 0.1;
  job.recipe.max_grad_norm = 0.5;
  job.recipe.rows_per_step = 2;
  job.recipe.checkpoint_every_steps = 2;
  return job;
}

std::string Difference(const TrainedAdapter& actual, const TrainedAdapter& expected,
                       double tolerance) {
  if (actual.history.size() != expected.history.size()) return "number of steps";
  for (size_t i = 0; i < actual.history.size(); ++i) {
    const StepReport &mine = actual.history[i], &theirs = expected.history[i];
    const bool near =
        std::abs(mine.loss - theirs.loss) <= tolerance * theirs.loss &&
        std::abs(mine.grad_norm - theirs.grad_norm) <= 10 * tolerance * theirs.grad_norm;
    if (near) continue;
    return absl::StrCat("step ", i + 1, ": loss ", mine.loss, " and norm ", mine.grad_norm,
                        " instead of ", theirs.loss, " and ", theirs.grad_norm);
  }
  return "";
}

}  // namespace evolora::testing
