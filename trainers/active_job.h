#pragma once

#include <cstdint>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "evolora/model/llama_weights.h"
#include "evolora/trainers/resident_trainer.h"
#include "fast_adapter.h"
#include "fast_model.h"
#include "gradient_path.h"
#include "training_run.h"

namespace evolora {

// A job of a resident trainer at work: its run, and what computes its gradients. `fs` and `clock`
// outlive the object.
struct ActiveJob {
  ActiveJob(QueuedJob taken, FileSystem& fs, const Clock& clock)
      : queued(std::move(taken)), run(queued.job, queued.options, fs, clock) {}

  // Takes a place in `model`, which all jobs share, or in one of its own when it trains modules of
  // `base` as a whole. After run.Start; both outlive the object.
  void StartAdapter(const LlamaWeights& base, FastModel& model);
  FrozenPass* frozen_pass() {
    return path != nullptr ? path->frozen_pass() : static_cast<FrozenPass*>(adapter.get());
  }

  // Whether it has taken the steps it is here for.
  bool ready_to_leave() const {
    return run.done() || (queued.stop_after > 0 && run.steps_taken() >= queued.stop_after);
  }
  // After the gradient of `step`: updates, books, saves when due.
  absl::Status FinishStep();
  // The outcome of a job that is done here, and of one that failed.
  JobOutcome Leave();
  JobOutcome Outcome(const absl::Status& status) const {
    return {.name = queued.name, .trained = status, .join_seconds = join_seconds};
  }

  // A base with modules of the job's in place. Passes through it are the job's own.
  struct OwnModel {
    OwnModel(const LlamaWeights& base, const LoraTensors& lora)
        : weights(WithModules(base, lora.saved)), model(weights) {}

    const LlamaWeights weights;
    FastModel model;
  };

  QueuedJob queued;
  TrainingRun run;
  std::unique_ptr<OwnModel> own;         // null: the one of all
  std::unique_ptr<FastAdapter> adapter;  // one of these two
  std::unique_ptr<GradientPath> path;    // on the device
  int64_t step_tokens = 0;               // of a mean step
  double join_seconds = 0;
  TrainingRun::Step step;
  double loss_sum = 0;  // of the step; `path` has its own

 private:
  absl::StatusOr<double> HeldOutLoss();
};

}  // namespace evolora
