#include "evolora/trainers/lora_trainer.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <set>
#include <utility>

#include "ATen/core/grad_mode.h"
#include "ATen/ops/_fused_adamw.h"
#include "ATen/ops/full.h"
#include "absl/strings/str_cat.h"
#include "adapter_parameters.h"
#include "checkpoint.h"
#include "device/device_errors.h"
#include "device/device_optimizer.h"
#include "device/device_path.h"
#include "device/open_device.h"
#include "evolora/core/status_macros.h"
#include "evolora/model/torch_status.h"
#include "gradient_path.h"
#include "loss.h"
#include "metrics_files.h"
#include "residual_start.h"
#include "row_order.h"
#include "shared_path.h"
#include "step_cost.h"

namespace evolora {
namespace {

// The path that the recipe means on the device.
absl::StatusOr<TrainingPath> PathOn(c10::Device device, const LoraRecipe& recipe) {
  const bool fast_on_gpu = device.is_cuda() && recipe.path == TrainingPath::kFast;
  const TrainingPath path = fast_on_gpu ? TrainingPath::kDevice : recipe.path;
  if (device.is_cuda() && path == TrainingPath::kReference) {
    return absl::InvalidArgumentError("recipe.path: reference runs on the CPU only");
  }
  if (recipe.precision == TrainingPrecision::kBf16 && path != TrainingPath::kDevice) {
    return absl::InvalidArgumentError("recipe.precision: bf16 needs path device or a CUDA device");
  }
  if (path == TrainingPath::kDevice && (recipe.use_dora || recipe.lora_dropout > 0)) {
    return absl::UnimplementedError(absl::StrCat("recipe.",
                                                 recipe.use_dora ? "use_dora" : "lora_dropout",
                                                 ": not computed by the device path"));
  }
  return path;
}

// One run of the training loop; holds what every step needs.
class Run {
 public:
  Run(const TrainingJob& job, const TrainOptions& options, FileSystem& fs, const Clock& clock)
      : job_(job), options_(options), fs_(fs), clock_(clock) {}

  absl::StatusOr<TrainedAdapter> Train(const std::stop_token& stop) {
    RETURN_IF_ERROR(Prepare(stop));
    for (int64_t step = static_cast<int64_t>(history_.size()); step < total_steps_; ++step) {
      if (stop.stop_requested()) return Cancelled(step);
      if (const absl::Status done = Step(step); !done.ok()) return Failed(done);
      const bool due = (step + 1) % job_.recipe.checkpoint_every_steps == 0;
      if (due && step + 1 < total_steps_) RETURN_IF_ERROR(Save());
    }
    RETURN_IF_ERROR(WriteMetrics());
    LoraAdapter adapter = parameters_->ToAdapter(job_.base_name);
    if (start_.has_value()) adapter = TrainedSince(start_->adapter, adapter);
    return TrainedAdapter{std::move(adapter), history_, TotalFlops()};
  }

 private:
  absl::Status Prepare(const std::stop_token& stop) {
    RETURN_IF_ERROR(ValidateRecipe(job_.recipe));
    if (job_.recipe.objective.reference == FrozenModel::kInit && !job_.init.has_value()) {
      return absl::InvalidArgumentError("recipe.reference: init, but no adapter to start from");
    }
    ASSIGN_OR_RETURN(const c10::Device device, OpenDevice(options_.device));
    ASSIGN_OR_RETURN(const TrainingPath path, PathOn(device, job_.recipe));
    LintLimits limits = LimitsOf(job_);
    limits.max_cut_share = 0;
    RETURN_IF_ERROR(LintTrainingRows(job_.rows, limits));
    order_.emplace(job_.recipe, job_.rows);
    total_steps_ = order_->total_steps();
    RETURN_IF_ERROR(MakeStart());
    RETURN_IF_ERROR(PreparePath(path, device, stop));
    return LoadProgress();
  }

  // With the adapter's starting values.
  absl::Status PreparePath(TrainingPath path, c10::Device device, const std::stop_token& stop) {
    ObjectiveSettings settings = job_.recipe.objective;
    // What is left of a base is not the base; with the start that was taken out of it, it is.
    if (start_.has_value()) settings.reference = FrozenModel::kInit;
    ASSIGN_OR_RETURN(loss_, MakeLoss(settings, job_.rows));
    const GradientPathInputs inputs = {.base = &base(),
                                       .lora = &parameters_->lora(),
                                       .recipe = &job_.recipe,
                                       .rows = job_.rows,
                                       .loss = loss_.get()};
    MakePath(path, device, inputs);
    const ObjectiveKind objective = job_.recipe.objective.kind;
    if (objective == ObjectiveKind::kSft) return absl::OkStatus();
    if (path_->frozen_pass() == nullptr) {
      return absl::UnimplementedError(
          absl::StrCat("the path device trains no '", ObjectiveName(objective), "'"));
    }
    std::set<int64_t> visited;
    for (int64_t step = 0; step < total_steps_; ++step) {
      for (const int64_t i : order_->RowsOf(step)) visited.insert(i);
    }
    return loss_->Prepare(*path_->frozen_pass(),
                          std::vector<int64_t>(visited.begin(), visited.end()), stop);
  }

  absl::Status LoadProgress() {
    job_digest_ = JobDigest(job_);
    RETURN_IF_ERROR(Restore());
    RETURN_IF_ERROR(AgreeOnStart());
    if (options_.metrics_dir.empty() || !writes()) return absl::OkStatus();
    metrics_.emplace(fs_, options_.metrics_dir, job_digest_);
    return metrics_->Start(history_);
  }

  absl::Status Restore() {
    if (options_.work_dir.empty()) return absl::OkStatus();
    RETURN_IF_ERROR(fs_.CreateDirectories(options_.work_dir));
    if (!options_.resume) return absl::OkStatus();
    ASSIGN_OR_RETURN(auto history,
                     LoadCheckpoint(fs_, options_.work_dir, job_digest_, *parameters_));
    if (history.has_value()) history_ = *std::move(history);
    return absl::OkStatus();
  }

  // Whether this rank writes files.
  bool writes() const { return options_.group == nullptr || options_.group->rank() == 0; }

  // Every rank has to begin the same job at the same step.
  absl::Status AgreeOnStart() const {
    if (options_.group == nullptr) return absl::OkStatus();
    // A decomposition may have other bits on another kind of CPU.
    const std::string start = start_ ? AdapterDigest(start_->adapter) : job_digest_;
    const auto word = [](const std::string& digest) {
      return static_cast<double>(std::stoul(digest.substr(0, 8), nullptr, 16));
    };
    const double own[] = {static_cast<double>(history_.size()), word(job_digest_), word(start)};
    double sums[] = {own[0], own[1], own[2]};
    RETURN_IF_ERROR(options_.group->Sum(absl::MakeSpan(sums)));
    const double size = options_.group->size();
    if (sums[0] == size * own[0] && sums[1] == size * own[1] && sums[2] == size * own[2]) {
      return absl::OkStatus();
    }
    return absl::FailedPreconditionError(absl::StrCat(
        "rank ", options_.group->rank(), " of ", size, " begins job ", job_digest_.substr(0, 8),
        " at step ", history_.size(),
        ", the others another job, at another step or from other factors of the base: do "
        "they see the same files, on the same kind of machine?"));
  }

  // What the adapter is trained beside: the job's base, or what a start has left of it.
  const LlamaWeights& base() const { return start_ ? *start_->base : *job_.base; }

  absl::Status MakeStart() {
    const LoraAdapter* init = job_.init ? &*job_.init : nullptr;
    if (job_.recipe.init_lora_weights != LoraInit::kKaiming) {
      if (init != nullptr) {
        return absl::InvalidArgumentError(
            "recipe.init_lora_weights: the run starts from a given adapter");
      }
      ASSIGN_OR_RETURN(start_, MakeResidualStart(*job_.base, job_.recipe));
      init = &start_->adapter;
    }
    ASSIGN_OR_RETURN(AdapterParameters parameters,
                     AdapterParameters::Create(base(), job_.recipe, init));
    parameters_.emplace(std::move(parameters));
    return absl::OkStatus();
  }

  void MakePath(TrainingPath path, c10::Device device, const GradientPathInputs& inputs) {
    if (path == TrainingPath::kReference) {
      path_ = MakeReferencePath(inputs);
    } else if (path == TrainingPath::kFast) {
      path_ = MakeFastPath(inputs);
    } else {
      parameters_->MoveTo(device);
      const bool bf16 = job_.recipe.precision == TrainingPrecision::kBf16;
      path_ =
          MakeDevicePath(inputs, {.device = device, .dtype = bf16 ? at::kBFloat16 : at::kFloat});
      device_optimizer_.emplace(job_.recipe, *parameters_);
    }
    if (options_.group == nullptr) return;
    path_ = MakeSharedPath(std::move(path_), parameters_->gradient, *options_.group);
  }

  // The checkpoint first: the metrics can be made from it.
  absl::Status Save() {
    if (!writes()) return absl::OkStatus();
    if (!options_.work_dir.empty()) {
      RETURN_IF_ERROR(SaveCheckpoint(fs_, options_.work_dir, job_digest_, *parameters_, history_));
    }
    return WriteMetrics();
  }

  absl::Status WriteMetrics() {
    return metrics_.has_value() ? metrics_->Write(history_) : absl::OkStatus();
  }

  // A step's failure, after its predecessors' curves are safe: they show how it came to it. When
  // another rank is lost the steps before are as good as any.
  absl::Status Failed(const absl::Status& failure) {
    (absl::IsUnavailable(failure) ? Save() : WriteMetrics()).IgnoreError();
    return failure;
  }

  absl::Status Cancelled(int64_t step) {
    RETURN_IF_ERROR(Save());
    return absl::CancelledError(
        absl::StrCat("training stopped after step ", step, " of ", total_steps_));
  }

  absl::Status Step(int64_t step) {
    const double started = clock_.MonotonicSeconds();
    const std::vector<int64_t> step_rows = order_->RowsOf(step);
    const StepSize size = SizeOfStep(job_.rows, step_rows, job_.recipe.objective.kind);
    StepReport report{.step = step + 1,
                      .total_steps = total_steps_,
                      .tokens = size.tokens,
                      .labelled_tokens = size.labelled_tokens};
    path_->set_step(step);
    ASSIGN_OR_RETURN(report.loss, AccumulateGradient(step_rows));
    report.figures = loss_->TakeFigures();
    report.grad_norm = device_optimizer_ ? device_optimizer_->GradientNorm()
                                         : parameters_->gradient.norm().item<double>();
    if (!std::isfinite(report.loss) || !std::isfinite(report.grad_norm)) {
      return absl::AbortedError(absl::StrCat("step ", step + 1, ": loss ", report.loss,
                                             ", gradient norm ", report.grad_norm));
    }
    report.learning_rate = LearningRateAt(job_.recipe, step, total_steps_);
    Update(step, report);
    report.seconds = clock_.MonotonicSeconds() - started;
    report.unix_ms = clock_.NowUnixMs();
    history_.push_back(report);
    if (options_.on_step) options_.on_step(report);
    return absl::OkStatus();
  }

  // Gradient of the step's mean loss; returns that mean.
  absl::StatusOr<double> AccumulateGradient(absl::Span<const int64_t> step_rows) {
    parameters_->gradient.zero_();
    const double factor = 1.0 / loss_->StepWeight(step_rows);
    ASSIGN_OR_RETURN(const double loss_sum, path_->AddGradient(step_rows, factor));
    return loss_sum * factor;
  }

  void Update(int64_t step, const StepReport& report) {
    if (device_optimizer_) return device_optimizer_->Update(step, report.learning_rate);
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

  double TotalFlops() const {
    double flops = 0;
    for (const StepReport& step : history_) {
      flops += StepFlops(job_.base->config, job_.recipe, {step.tokens, step.labelled_tokens});
    }
    return flops;
  }

  const TrainingJob& job_;
  const TrainOptions& options_;
  FileSystem& fs_;
  const Clock& clock_;
  std::optional<ResidualStart> start_;
  std::optional<AdapterParameters> parameters_;
  std::unique_ptr<Loss> loss_;
  std::unique_ptr<GradientPath> path_;
  std::optional<DeviceOptimizer> device_optimizer_;  // of the device path
  std::optional<StepOrder> order_;
  std::string job_digest_;
  int64_t total_steps_ = 0;
  std::vector<StepReport> history_;
  std::optional<MetricsFiles> metrics_;
};

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
    return NameOutOfMemory([&] { return Run(job, options, fs, clock).Train(stop); });
  });
}

}  // namespace evolora
