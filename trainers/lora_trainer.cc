#include "evolora/trainers/lora_trainer.h"

#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "device/device_errors.h"
#include "device/device_stream.h"
#include "device/open_device.h"
#include "evolora/core/status_macros.h"
#include "evolora/model/torch_status.h"
#include "evolora/trainers/full_trainer.h"
#include "gradient_path.h"
#include "shared_path.h"
#include "training_path.h"
#include "training_run.h"

namespace evolora {
namespace {

// The gradient path of a run.
std::unique_ptr<GradientPath> MakePath(TrainingPath kind, c10::Device device,
                                       const LoraRecipe& recipe, const TrainOptions& options,
                                       TrainingRun& run) {
  std::unique_ptr<GradientPath> path;
  if (kind == TrainingPath::kReference) {
    path = MakeReferencePath(run.inputs());
  } else if (kind == TrainingPath::kFast) {
    path = MakeFastPath(run.inputs());
  } else {
    path = StartDevicePath(device, recipe, options, nullptr, run);
  }
  if (options.group == nullptr) return path;
  return MakeSharedPath(std::move(path), run.parameters().gradient, *options.group);
}

absl::Status TakeStep(GradientPath& path, TrainingRun& run) {
  const TrainingRun::Step step = run.BeginStep();
  path.set_step(step.index);
  RETURN_IF_ERROR(path.EnqueueGradient(step.rows, step.factor));
  run.Update(step);
  ASSIGN_OR_RETURN(const double loss_sum, path.LossSum());
  return run.FinishStep(step, loss_sum);
}

absl::Status CheckMethod(const LoraRecipe& recipe, TrainingMethod method) {
  if (recipe.method == method) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("recipe.method: ", MethodName(recipe.method),
                                                 " where ", MethodName(method), " is trained"));
}

// All steps of a job; `finish` makes its result of the run.
template <typename Result>
absl::StatusOr<Result> Train(const TrainingJob& job, const TrainOptions& options, FileSystem& fs,
                             const Clock& clock, const std::stop_token& stop, TrainingMethod method,
                             absl::StatusOr<Result> (TrainingRun::*finish)()) {
  RETURN_IF_ERROR(CheckMethod(job.recipe, method));
  RETURN_IF_ERROR(ValidateRecipe(job.recipe));
  ASSIGN_OR_RETURN(const c10::Device device, OpenDevice(options.device));
  ASSIGN_OR_RETURN(const TrainingPath kind, PathOn(device, job.recipe));
  const DeviceStream stream(device);
  TrainingRun run(job, options, fs, clock);
  RETURN_IF_ERROR(run.Start());
  const std::unique_ptr<GradientPath> path = MakePath(kind, device, job.recipe, options, run);
  RETURN_IF_ERROR(run.Prepare(path->frozen_pass(), stop));
  RETURN_IF_ERROR(run.LoadProgress());
  while (!run.done()) {
    if (stop.stop_requested()) return run.Cancelled();
    const absl::Status taken =
        CatchTorch("train", [&] { return NameOutOfMemory([&] { return TakeStep(*path, run); }); });
    if (!taken.ok()) return run.Failed(taken);
  }
  return (run.*finish)();
}

}  // namespace

LintLimits LimitsOf(const TrainingJob& job) {
  LintLimits limits{.max_row_tokens = job.recipe.max_row_tokens,
                    .max_positions = job.base->config.max_positions,
                    .vocab_size = job.base->config.vocab_size,
                    .max_cut_share = job.recipe.max_cut_share};
  if (job.recipe.require_end_of_turn) limits.end_ids = job.end_ids;
  return limits;
}

absl::Status CheckTrainingDevice(absl::string_view device) {
  return CatchTorch("device", [&] { return OpenDevice(device).status(); });
}

absl::StatusOr<TrainedAdapter> TrainLora(const TrainingJob& job, const TrainOptions& options,
                                         FileSystem& fs, const Clock& clock, std::stop_token stop) {
  return CatchTorch("train", [&] {
    return NameOutOfMemory([&] {
      return Train(job, options, fs, clock, stop, TrainingMethod::kLora, &TrainingRun::Finish);
    });
  });
}

absl::StatusOr<TrainedBase> TrainFull(const TrainingJob& job, const TrainOptions& options,
                                      FileSystem& fs, const Clock& clock, std::stop_token stop) {
  return CatchTorch("train", [&] {
    return NameOutOfMemory([&] {
      return Train(job, options, fs, clock, stop, TrainingMethod::kFull, &TrainingRun::FinishBase);
    });
  });
}

}  // namespace evolora
