#include "training_run.h"

#include <cmath>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "checkpoint.h"
#include "evolora/core/status_macros.h"
#include "evolora/model/compact_weights.h"
#include "step_cost.h"

namespace evolora {

TrainingRun::TrainingRun(const TrainingJob& job, const TrainOptions& options, FileSystem& fs,
                         const Clock& clock)
    : job_(job), options_(options), fs_(fs), clock_(clock) {}

absl::Status TrainingRun::Start() {
  RETURN_IF_ERROR(ValidateRecipe(job_.recipe));
  if (job_.recipe.objective.reference == FrozenModel::kInit && !job_.init.has_value()) {
    return absl::InvalidArgumentError("recipe.reference: init, but no adapter to start from");
  }
  LintLimits limits = LimitsOf(job_);
  limits.max_cut_share = 0;
  RETURN_IF_ERROR(LintTrainingRows(job_.rows, limits));
  order_.emplace(job_.recipe, job_.rows);
  total_steps_ = order_->total_steps();
  RETURN_IF_ERROR(MakeCompact());
  RETURN_IF_ERROR(MakeStart());
  ObjectiveSettings settings = job_.recipe.objective;
  // What is left of a base is not the base; with the start that was taken out of it, it is.
  if (start_.has_value()) settings.reference = FrozenModel::kInit;
  ASSIGN_OR_RETURN(loss_, MakeLoss(settings, job_.rows));
  return absl::OkStatus();
}

absl::Status TrainingRun::MakeCompact() {
  const WeightStorage wanted = job_.recipe.base_weights;
  if (job_.base->compact != nullptr) {
    const WeightStorage loaded = job_.base->compact->storage;
    if (TakesBase(job_.recipe, options_.device, loaded)) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrCat("recipe.base_weights: ", WeightStorageName(wanted),
                     ", the base was loaded as ", WeightStorageName(loaded)));
  }
  if (wanted != WeightStorage::kFp32) compact_.emplace(CompactCopy(*job_.base, wanted));
  return absl::OkStatus();
}

absl::Status TrainingRun::MakeStart() {
  const bool full = job_.recipe.method == TrainingMethod::kFull;
  RETURN_IF_ERROR(full ? MakeBaseStart() : MakeAdapterStart());
  optimizer_ = MakeHostOptimizer(
      job_.recipe, *flat_,
      full ? base_parameters_->Groups(job_.recipe) : parameters_->Groups(job_.recipe));
  return absl::OkStatus();
}

absl::Status TrainingRun::MakeBaseStart() {
  if (job_.init.has_value()) {
    return absl::InvalidArgumentError(
        "the method 'full' trains the base, and an adapter to start from was given");
  }
  flat_ = &base_parameters_.emplace(*job_.base);
  return absl::OkStatus();
}

absl::Status TrainingRun::MakeAdapterStart() {
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
  flat_ = &parameters_.emplace(std::move(parameters));
  const bool on_host = job_.recipe.path == TrainingPath::kReference ||
                       (job_.recipe.path == TrainingPath::kFast && options_.device == "cpu");
  if (job_.recipe.precision == TrainingPrecision::kBf16 && on_host) {
    RoundToBf16(parameters_->value);
  }
  return absl::OkStatus();
}

GradientPathInputs TrainingRun::inputs() const {
  return {.base = &base(),
          .lora = parameters_ ? &parameters_->lora() : &no_adapter_,
          .recipe = &job_.recipe,
          .rows = job_.rows,
          .loss = loss_.get()};
}

absl::Status TrainingRun::Prepare(FrozenPass* model, const std::stop_token& stop) {
  const ObjectiveKind objective = job_.recipe.objective.kind;
  if (objective == ObjectiveKind::kSft) return absl::OkStatus();
  if (model == nullptr) {
    return absl::UnimplementedError(
        absl::StrCat("the path device trains no '", ObjectiveName(objective), "'"));
  }
  std::set<int64_t> visited;
  for (int64_t step = 0; step < total_steps_; ++step) {
    for (const int64_t i : order_->RowsOf(step)) visited.insert(i);
  }
  return loss_->Prepare(*model, std::vector<int64_t>(visited.begin(), visited.end()), stop);
}

absl::Status TrainingRun::LoadProgress() {
  job_digest_ = JobDigest(job_);
  RETURN_IF_ERROR(Restore());
  RETURN_IF_ERROR(AgreeOnStart());
  if (options_.metrics_dir.empty() || !writes()) return absl::OkStatus();
  metrics_.emplace(fs_, options_.metrics_dir, job_digest_);
  return metrics_->Start(history_);
}

absl::Status TrainingRun::Restore() {
  if (options_.work_dir.empty()) return absl::OkStatus();
  RETURN_IF_ERROR(fs_.CreateDirectories(options_.work_dir));
  if (!options_.resume) return absl::OkStatus();
  ASSIGN_OR_RETURN(auto history, LoadCheckpoint(fs_, options_.work_dir, job_digest_, *flat_));
  if (history.has_value()) history_ = *std::move(history);
  return absl::OkStatus();
}

// Every rank has to begin the same job at the same step.
absl::Status TrainingRun::AgreeOnStart() const {
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

TrainingRun::Step TrainingRun::BeginStep() {
  step_started_ = clock_.MonotonicSeconds();
  flat_->gradient.zero_();
  Step step = {.index = steps_taken(), .rows = order_->RowsOf(steps_taken())};
  step.factor = 1.0 / loss_->StepWeight(step.rows);
  return step;
}

void TrainingRun::Update(const Step& step) {
  optimizer_->Step(step.index, LearningRateAt(job_.recipe, step.index, total_steps_));
}

absl::Status TrainingRun::FinishStep(const Step& step, double loss_sum) {
  const StepSize size = SizeOfStep(job_.rows, step.rows, job_.recipe.objective.kind);
  StepReport report{.step = step.index + 1,
                    .total_steps = total_steps_,
                    .loss = loss_sum * step.factor,
                    .tokens = size.tokens,
                    .labelled_tokens = size.labelled_tokens};
  report.figures = loss_->TakeFigures();
  report.grad_norm = optimizer_->GradientNorm();
  if (!std::isfinite(report.loss) || !std::isfinite(report.grad_norm)) {
    return absl::AbortedError(absl::StrCat("step ", report.step, ": loss ", report.loss,
                                           ", gradient norm ", report.grad_norm));
  }
  report.learning_rate = LearningRateAt(job_.recipe, step.index, total_steps_);
  report.seconds = clock_.MonotonicSeconds() - step_started_;
  report.unix_ms = clock_.NowUnixMs();
  history_.push_back(report);
  if (options_.on_step) options_.on_step(report);
  const bool due = report.step % job_.recipe.checkpoint_every_steps == 0;
  return due && !done() ? Save() : absl::OkStatus();
}

// The checkpoint first: the metrics can be made from it.
absl::Status TrainingRun::Save() {
  if (!writes()) return absl::OkStatus();
  if (!options_.work_dir.empty()) {
    RETURN_IF_ERROR(SaveCheckpoint(fs_, options_.work_dir, job_digest_, *flat_, history_));
  }
  return WriteMetrics();
}

absl::Status TrainingRun::WriteMetrics() {
  return metrics_.has_value() ? metrics_->Write(history_) : absl::OkStatus();
}

absl::Status TrainingRun::Cancelled() {
  RETURN_IF_ERROR(Save());
  return absl::CancelledError(
      absl::StrCat("training stopped after step ", steps_taken(), " of ", total_steps_));
}

absl::Status TrainingRun::Failed(const absl::Status& failure) {
  (absl::IsUnavailable(failure) ? Save() : WriteMetrics()).IgnoreError();
  return failure;
}

double TrainingRun::TotalFlops() const {
  double flops = 0;
  for (const StepReport& step : history_) {
    flops += StepFlops(job_.base->config, job_.recipe, {step.tokens, step.labelled_tokens});
  }
  return flops;
}

absl::StatusOr<TrainedAdapter> TrainingRun::Finish() {
  RETURN_IF_ERROR(WriteMetrics());
  LoraAdapter adapter = parameters_->ToAdapter(job_.base_name);
  if (start_.has_value()) adapter = TrainedSince(start_->adapter, adapter);
  return TrainedAdapter{std::move(adapter), history_, TotalFlops()};
}

absl::StatusOr<TrainedBase> TrainingRun::FinishBase() {
  RETURN_IF_ERROR(WriteMetrics());
  return TrainedBase{std::make_shared<const LlamaWeights>(base_parameters_->Values()), history_,
                     TotalFlops()};
}

}  // namespace evolora
