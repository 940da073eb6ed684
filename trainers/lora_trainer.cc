#include "evolora/trainers/lora_trainer.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <utility>

#include "ATen/core/grad_mode.h"
#include "ATen/ops/_fused_adamw.h"
#include "ATen/ops/full.h"
#include "absl/strings/str_cat.h"
#include "adapter_parameters.h"
#include "checkpoint.h"
#include "evolora/core/status_macros.h"
#include "evolora/model/torch_status.h"
#include "gradient_path.h"
#include "row_order.h"

namespace evolora {
namespace {

int64_t NumLabelled(const TrainingRow& row) {
  return std::count_if(row.labels.begin() + 1, row.labels.end(),
                       [](TokenId label) { return label != kIgnoreLabel; });
}

// One run of the training loop; holds what every step needs.
class Run {
 public:
  Run(const TrainingJob& job, const TrainOptions& options, FileSystem& fs, const Clock& clock)
      : job_(job), options_(options), fs_(fs), clock_(clock) {}

  absl::StatusOr<TrainedAdapter> Train(const std::stop_token& stop) {
    RETURN_IF_ERROR(Prepare());
    for (int64_t step = static_cast<int64_t>(history_.size()); step < total_steps_; ++step) {
      if (stop.stop_requested()) return Cancelled(step);
      RETURN_IF_ERROR(Step(step));
      const bool due = (step + 1) % job_.recipe.checkpoint_every_steps == 0;
      if (due && step + 1 < total_steps_) RETURN_IF_ERROR(Save());
    }
    return TrainedAdapter{parameters_->ToAdapter(job_.base_name), history_, TotalFlops()};
  }

 private:
  absl::Status Prepare() {
    RETURN_IF_ERROR(ValidateRecipe(job_.recipe));
    RETURN_IF_ERROR(
        LintTrainingRows(job_.rows, job_.recipe.max_row_tokens, job_.base->config.max_positions));
    const int64_t num_replay = std::count_if(job_.rows.begin(), job_.rows.end(),
                                             [](const TrainingRow& row) { return row.replay; });
    total_steps_ =
        TotalSteps(job_.recipe, static_cast<int64_t>(job_.rows.size()) - num_replay, num_replay);
    ASSIGN_OR_RETURN(
        AdapterParameters parameters,
        AdapterParameters::Create(*job_.base, job_.recipe, job_.init ? &*job_.init : nullptr));
    parameters_.emplace(std::move(parameters));
    const GradientPathInputs inputs = {.base = job_.base.get(),
                                       .lora = &parameters_->lora(),
                                       .recipe = &job_.recipe,
                                       .rows = job_.rows};
    path_ =
        job_.recipe.path == TrainingPath::kFast ? MakeFastPath(inputs) : MakeReferencePath(inputs);
    job_digest_ = JobDigest(job_);
    if (options_.work_dir.empty()) return absl::OkStatus();
    RETURN_IF_ERROR(fs_.CreateDirectories(options_.work_dir));
    if (!options_.resume) return absl::OkStatus();
    ASSIGN_OR_RETURN(auto history,
                     LoadCheckpoint(fs_, options_.work_dir, job_digest_, *parameters_));
    if (history.has_value()) history_ = *std::move(history);
    return absl::OkStatus();
  }

  absl::Status Save() {
    if (options_.work_dir.empty()) return absl::OkStatus();
    return SaveCheckpoint(fs_, options_.work_dir, job_digest_, *parameters_, history_);
  }

  absl::Status Cancelled(int64_t step) {
    RETURN_IF_ERROR(Save());
    return absl::CancelledError(
        absl::StrCat("training stopped after step ", step, " of ", total_steps_));
  }

  std::vector<int64_t> StepRows(int64_t step) {
    const int64_t steps_per_epoch = total_epoch_steps();
    const int64_t epoch = step / steps_per_epoch;
    if (epoch != order_epoch_) {
      order_ = EpochOrder(job_.recipe, job_.rows, epoch);
      order_epoch_ = epoch;
    }
    const int64_t begin = (step % steps_per_epoch) * job_.recipe.rows_per_step;
    const int64_t end =
        std::min(begin + job_.recipe.rows_per_step, static_cast<int64_t>(order_.size()));
    return {order_.begin() + begin, order_.begin() + end};
  }

  int64_t total_epoch_steps() {
    if (order_epoch_ < 0) {
      order_ = EpochOrder(job_.recipe, job_.rows, 0);
      order_epoch_ = 0;
    }
    const int64_t rows = static_cast<int64_t>(order_.size());
    return (rows + job_.recipe.rows_per_step - 1) / job_.recipe.rows_per_step;
  }

  absl::Status Step(int64_t step) {
    const double started = clock_.MonotonicSeconds();
    const std::vector<int64_t> step_rows = StepRows(step);
    StepReport report{.step = step + 1, .total_steps = total_steps_};
    for (const int64_t i : step_rows) {
      report.tokens += static_cast<int64_t>(job_.rows[static_cast<size_t>(i)].ids.size());
      report.labelled_tokens += NumLabelled(job_.rows[static_cast<size_t>(i)]);
    }
    ASSIGN_OR_RETURN(report.loss, AccumulateGradient(step_rows, report.labelled_tokens));
    report.grad_norm = parameters_->gradient.norm().item<double>();
    if (!std::isfinite(report.loss) || !std::isfinite(report.grad_norm)) {
      return absl::AbortedError(absl::StrCat("step ", step + 1, ": loss ", report.loss,
                                             ", gradient norm ", report.grad_norm));
    }
    report.learning_rate = LearningRateAt(job_.recipe, step, total_steps_);
    Update(step, report);
    report.seconds = clock_.MonotonicSeconds() - started;
    history_.push_back(report);
    if (options_.on_step) options_.on_step(report);
    return absl::OkStatus();
  }

  // Gradient of the mean loss over `num_labelled` targets; returns that mean.
  absl::StatusOr<double> AccumulateGradient(absl::Span<const int64_t> step_rows,
                                            int64_t num_labelled) {
    parameters_->gradient.zero_();
    const double factor = 1.0 / static_cast<double>(num_labelled);
    ASSIGN_OR_RETURN(const double loss_sum, path_->AddGradient(step_rows, factor));
    return loss_sum * factor;
  }

  void Update(int64_t step, const StepReport& report) {
    const at::NoGradGuard no_grad;
    const LoraRecipe& recipe = job_.recipe;
    if (recipe.max_grad_norm > 0) {
      // torch.nn.utils.clip_grad_norm_: always multiplied, never by more than one.
      parameters_->gradient.mul_(std::min(1.0, recipe.max_grad_norm / (report.grad_norm + 1e-6)));
    }
    const AdapterParameters& p = *parameters_;
    if (recipe.lora_plus_ratio == 1) {
      return AdamW({p.value}, {p.gradient}, {p.moment1}, {p.moment2}, step, report.learning_rate);
    }
    AdamW(p.PartsA(p.value), p.PartsA(p.gradient), p.PartsA(p.moment1), p.PartsA(p.moment2), step,
          report.learning_rate);
    AdamW(p.PartsB(p.value), p.PartsB(p.gradient), p.PartsB(p.moment1), p.PartsB(p.moment2), step,
          report.learning_rate * recipe.lora_plus_ratio);
  }

  // Updates the values in place; lists of equal length and shapes.
  void AdamW(const std::vector<at::Tensor>& values, const std::vector<at::Tensor>& gradients,
             const std::vector<at::Tensor>& moments1, const std::vector<at::Tensor>& moments2,
             int64_t step, double learning_rate) const {
    const LoraRecipe& recipe = job_.recipe;
    std::vector<at::Tensor> step_counts;
    for (size_t i = 0; i < values.size(); ++i) {
      step_counts.push_back(at::full({}, static_cast<double>(step + 1), at::kFloat));
    }
    at::_fused_adamw_(values, gradients, moments1, moments2, /*max_exp_avg_sqs=*/{}, step_counts,
                      learning_rate, recipe.beta1, recipe.beta2, recipe.weight_decay,
                      recipe.epsilon, /*amsgrad=*/false, /*maximize=*/false);
  }

  // Forward, and the gradient of the activations: twice the forward. No weight gradient of the
  // base.
  double TotalFlops() const {
    double flops = 0;
    for (const StepReport& step : history_) {
      const int64_t mean_context = step.tokens / (2 * job_.recipe.rows_per_step);
      flops += 2 * LayerFlopsPerToken(job_.base->config, mean_context) *
                   static_cast<double>(step.tokens) +
               2 * HeadFlopsPerRow(job_.base->config) * static_cast<double>(step.labelled_tokens);
    }
    return flops;
  }

  const TrainingJob& job_;
  const TrainOptions& options_;
  FileSystem& fs_;
  const Clock& clock_;
  std::optional<AdapterParameters> parameters_;
  std::unique_ptr<GradientPath> path_;
  std::string job_digest_;
  int64_t total_steps_ = 0;
  std::vector<int64_t> order_;
  int64_t order_epoch_ = -1;
  std::vector<StepReport> history_;
};

}  // namespace

int64_t TotalSteps(const LoraRecipe& recipe, int64_t num_rows, int64_t num_replay_rows) {
  const int64_t per_epoch = num_rows + NumReplayPerEpoch(recipe, num_rows, num_replay_rows);
  const int64_t steps_per_epoch = (per_epoch + recipe.rows_per_step - 1) / recipe.rows_per_step;
  const int64_t steps = steps_per_epoch * recipe.epochs;
  return recipe.max_steps > 0 ? std::min(recipe.max_steps, steps) : steps;
}

absl::StatusOr<TrainedAdapter> TrainLora(const TrainingJob& job, const TrainOptions& options,
                                         FileSystem& fs, const Clock& clock, std::stop_token stop) {
  return CatchTorch("train", [&] { return Run(job, options, fs, clock).Train(stop); });
}

}  // namespace evolora
