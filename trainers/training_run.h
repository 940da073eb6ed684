#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "adapter_parameters.h"
#include "base_parameters.h"
#include "evolora/core/clock.h"
#include "evolora/core/file_system.h"
#include "evolora/trainers/full_trainer.h"
#include "evolora/trainers/lora_trainer.h"
#include "gradient_path.h"
#include "loss.h"
#include "metrics_files.h"
#include "optimizer.h"
#include "residual_start.h"
#include "row_order.h"

namespace evolora {

// One job of TrainLora or TrainFull (lora_trainer.h, full_trainer.h) on its way from step to step:
// everything but how gradients are computed. Call Start, Prepare and LoadProgress once, in this
// order; then BeginStep, Update and FinishStep by turns until done(); then Finish. Errors and files
// are theirs.
class TrainingRun {
 public:
  // All outlive the object.
  TrainingRun(const TrainingJob& job, const TrainOptions& options, FileSystem& fs,
              const Clock& clock);

  // Checks recipe and rows; makes what is trained as it starts, and its loss.
  absl::Status Start();
  // What a gradient path needs of it. Valid as long as the run.
  GradientPathInputs inputs() const;
  FlatParameters& parameters() { return *flat_; }
  AdapterParameters& adapter_parameters() { return *parameters_; }  // of the method kLora
  BaseParameters& base_parameters() { return *base_parameters_; }   // of the method kFull
  // In place of the one on the host.
  void set_optimizer(std::unique_ptr<Optimizer> optimizer) { optimizer_ = std::move(optimizer); }

  // With the starting values: what the objective asks of a frozen model. Null: the path
  // has none.
  absl::Status Prepare(FrozenPass* model, const std::stop_token& stop);
  // Goes on from the checkpoint, when the options say so and there is one.
  absl::Status LoadProgress();

  int64_t total_steps() const { return total_steps_; }
  int64_t steps_taken() const { return static_cast<int64_t>(history_.size()); }
  bool done() const { return steps_taken() == total_steps_; }
  const std::vector<StepReport>& history() const { return history_; }

  // The next optimiser step, with the gradient set to zero.
  struct Step {
    int64_t index = 0;  // from 0
    std::vector<int64_t> rows;
    double factor = 1;  // what the sum of its losses is multiplied with
  };
  Step BeginStep();
  // Updates the adapter from the gradient; on a device that is on its way when the call returns.
  void Update(const Step& step);
  // Books the step, after its Update, with the sum of its losses; saves when a checkpoint is due.
  // Aborted when the loss or the gradient is not finite; the adapter is of no use then.
  absl::Status FinishStep(const Step& step, double loss_sum);

  // Writes the checkpoint and the metrics as they are now.
  absl::Status Save();
  // The status of a run that stops here, saved.
  absl::Status Cancelled();
  // The given failure, after the curves of the steps before it are safe: they show how it came to
  // it. When another rank is lost the steps before are as good as any.
  absl::Status Failed(const absl::Status& failure);
  absl::StatusOr<TrainedAdapter> Finish();   // of the method kLora
  absl::StatusOr<TrainedBase> FinishBase();  // of the method kFull

 private:
  absl::Status MakeCompact();
  absl::Status MakeStart();
  absl::Status MakeBaseStart();
  absl::Status MakeAdapterStart();
  absl::Status Restore();
  absl::Status AgreeOnStart() const;
  absl::Status WriteMetrics();
  double TotalFlops() const;

  // What the adapter is trained beside: the job's base, in few bits when the recipe says so, or
  // what a start has left of it. Of the method kFull what is trained.
  const LlamaWeights& base() const {
    if (base_parameters_) return base_parameters_->weights();
    return start_ ? *start_->base : compact_ ? *compact_ : *job_.base;
  }
  // Whether this rank writes files.
  bool writes() const { return options_.group == nullptr || options_.group->rank() == 0; }

  const TrainingJob& job_;
  const TrainOptions& options_;
  FileSystem& fs_;
  const Clock& clock_;
  std::optional<LlamaWeights> compact_;  // unless the job's base is it
  std::optional<ResidualStart> start_;
  std::optional<AdapterParameters> parameters_;  // one of these two
  std::optional<BaseParameters> base_parameters_;
  FlatParameters* flat_ = nullptr;  // that one
  const LoraTensors no_adapter_;
  std::unique_ptr<Loss> loss_;
  std::unique_ptr<Optimizer> optimizer_;
  std::optional<StepOrder> order_;
  std::string job_digest_;
  int64_t total_steps_ = 0;
  double step_started_ = 0;
  std::vector<StepReport> history_;
  std::optional<MetricsFiles> metrics_;
};

}  // namespace evolora
