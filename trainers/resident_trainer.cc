#include "evolora/trainers/resident_trainer.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "ATen/core/grad_mode.h"
#include "absl/strings/str_cat.h"
#include "active_job.h"
#include "bf16_base.h"
#include "device/device_base.h"
#include "device/device_errors.h"
#include "device/device_limits.h"
#include "device/device_stream.h"
#include "device/open_device.h"
#include "evolora/core/status_macros.h"
#include "evolora/model/compact_weights.h"
#include "evolora/model/torch_status.h"
#include "fast_model.h"
#include "step_cost.h"
#include "training_path.h"

namespace evolora {
namespace {

absl::Status Refused(const char* what) {
  return absl::UnimplementedError(
      absl::StrCat(what, ": not beside other adapters; train it alone"));
}

absl::Status CheckShareable(const QueuedJob& queued, const std::string& device) {
  if (queued.options.device != device) {
    return absl::InvalidArgumentError(absl::StrCat("job ", queued.name, ": its device is ",
                                                   queued.options.device, ", the trainer's is ",
                                                   device));
  }
  if (queued.options.group != nullptr) return Refused("a process group");
  return CheckResident(queued.job, device);
}

const char* RegimeOf(Factors factors) { return factors == Factors::kBf16 ? "bf16" : "fp32"; }
const char* RegimeOf(at::ScalarType type) { return type == at::kBFloat16 ? "bf16" : "fp32"; }

int64_t StepTokensOf(const TrainingJob& job) {
  return MeanStepTokens(job.rows, job.recipe.rows_per_step);
}

class Trainer : public ResidentTrainer {
 public:
  Trainer(std::shared_ptr<const LlamaWeights> base, const ResidentLimits& limits,
          std::string device_name, c10::Device device)
      : limits_(limits),
        base_(std::move(base)),
        device_name_(std::move(device_name)),
        device_(device) {}

  absl::Status Run(const NextJob& next, const TakeOutcome& take, FileSystem& fs, const Clock& clock,
                   std::stop_token stop) override {
    const DeviceStream stream(device_);
    const absl::Status ended = CatchTorch("train", [&] {
      return NameOutOfMemory([&] { return Work(next, take, fs, clock, stop); });
    });
    waiting_.reset();
    for (; !active_.empty(); active_.pop_back()) {
      take({.name = active_.back()->queued.name, .trained = ended});
    }
    return ended;
  }

 private:
  absl::Status Work(const NextJob& next, const TakeOutcome& take, FileSystem& fs,
                    const Clock& clock, const std::stop_token& stop) {
    while (true) {
      if (stop.stop_requested()) return CancelAll(take);
      Admit(next, take, fs, clock, stop);
      if (active_.empty()) {
        return stop.stop_requested() ? CancelAll(take) : absl::OkStatus();
      }
      RETURN_IF_ERROR(StepTogether());
      for (size_t i = 0; i < active_.size();) {
        const absl::Status taken = active_[i]->FinishStep();
        if (taken.ok() && !active_[i]->ready_to_leave()) {
          ++i;
          continue;
        }
        take(taken.ok() ? active_[i]->Leave() : active_[i]->Outcome(taken));
        active_.erase(active_.begin() + static_cast<std::ptrdiff_t>(i));
      }
    }
  }

  absl::Status CancelAll(const TakeOutcome& take) {
    for (const std::unique_ptr<ActiveJob>& job : active_) take(job->Outcome(job->run.Cancelled()));
    active_.clear();
    return absl::CancelledError("training stopped");
  }

  // Takes jobs from the queue while they fit.
  void Admit(const NextJob& next, const TakeOutcome& take, FileSystem& fs, const Clock& clock,
             const std::stop_token& stop) {
    while (!stop.stop_requested()) {
      if (!waiting_.has_value()) waiting_ = next();
      if (!waiting_.has_value() || !Fits(waiting_->job)) return;
      const double began = clock.MonotonicSeconds();
      auto job = std::make_unique<ActiveJob>(*std::move(waiting_), fs, clock);
      waiting_.reset();
      const absl::Status started = CatchTorch(
          "train", [&] { return NameOutOfMemory([&] { return StartJob(*job, stop); }); });
      job->join_seconds = clock.MonotonicSeconds() - began;
      if (!started.ok()) {
        take(job->Outcome(started));
      } else if (job->ready_to_leave()) {
        take(job->Leave());
      } else {
        active_.push_back(std::move(job));
      }
    }
  }

  // Jobs on the device path work one after the other.
  bool RunsOnDevice(const TrainingJob& job) const {
    const absl::StatusOr<TrainingPath> path = PathOn(device_, job.recipe);
    return path.ok() && *path == TrainingPath::kDevice;
  }

  bool Fits(const TrainingJob& job) const {
    if (active_.empty()) return true;
    if (RunsOnDevice(job) || active_.front()->path != nullptr) return false;
    int64_t tokens = StepTokensOf(job);
    for (const std::unique_ptr<ActiveJob>& other : active_) tokens += other->step_tokens;
    return static_cast<int64_t>(active_.size()) < limits_.max_adapters &&
           tokens <= limits_.tokens_per_step;
  }

  absl::Status StartJob(ActiveJob& job, const std::stop_token& stop) {
    if (job.queued.job.base != base_) {
      return absl::InvalidArgumentError(
          absl::StrCat("job ", job.queued.name, ": its base is not the one in memory"));
    }
    RETURN_IF_ERROR(CheckShareable(job.queued, device_name_));
    const LoraRecipe& recipe = job.queued.job.recipe;
    const bool on_device = RunsOnDevice(job.queued.job);
    RETURN_IF_ERROR(on_device ? ShareDeviceBase(recipe) : ShareModel(recipe));
    for (const std::unique_ptr<ActiveJob>& other : active_) {
      const std::string& folder = other->queued.options.work_dir;
      if (folder.empty() || folder != job.queued.options.work_dir) continue;
      return absl::FailedPreconditionError(absl::StrCat(
          "job ", job.queued.name, ": ", other->queued.name, " works in its folder ", folder));
    }
    RETURN_IF_ERROR(job.run.Start());
    job.step_tokens = StepTokensOf(job.queued.job);
    if (on_device) {
      job.path = StartDevicePath(device_, recipe, job.queued.options, device_base_, job.run);
    } else {
      job.StartAdapter(*base_, *model_);
    }
    RETURN_IF_ERROR(job.run.Prepare(job.frozen_pass(), stop));
    return job.run.LoadProgress();
  }

  // The first job's regime is that of all.
  absl::Status ShareDeviceBase(const LoraRecipe& recipe) {
    const at::ScalarType type = DeviceTypeOf(recipe);
    if (device_base_ == nullptr) {
      device_base_ = std::make_shared<const ResidentBase>(*base_, device_, type,
                                                          DeviceLimits().widened_at_once);
    }
    const at::ScalarType others = device_base_->math.dtype();
    return type == others ? absl::OkStatus() : AnotherRegime(RegimeOf(type), RegimeOf(others));
  }

  static absl::Status AnotherRegime(const char* own, const char* others) {
    return absl::InvalidArgumentError(absl::StrCat("recipe.precision: this job computes in ", own,
                                                   ", those before it in ", others,
                                                   "; all jobs of a list agree"));
  }

  // The first job's regime is that of all.
  absl::Status ShareModel(const LoraRecipe& recipe) {
    const Factors factors = FactorsOf(recipe);
    if (!model_.has_value()) {
      factors_ = factors;
      if (factors == Factors::kBf16) rounded_.emplace(Bf16Base(*base_));
      model_.emplace(rounded_ ? *rounded_ : *base_, factors);
    }
    return factors == factors_ ? absl::OkStatus()
                               : AnotherRegime(RegimeOf(factors), RegimeOf(factors_));
  }

  // The gradients of one optimiser step of every job.
  absl::Status StepTogether() {
    const at::NoGradGuard no_grad;
    std::vector<FastModel::MicroBatch> batches;
    std::vector<ActiveJob*> owners;
    for (const std::unique_ptr<ActiveJob>& job : active_) {
      job->step = job->run.BeginStep();
      job->loss_sum = 0;
      if (job->path != nullptr) {
        job->path->set_step(job->step.index);
        RETURN_IF_ERROR(job->path->EnqueueGradient(job->step.rows, job->step.factor));
        continue;
      }
      for (FastModel::MicroBatch& batch :
           job->adapter->BeginStep(job->step.index, job->step.rows, job->step.factor)) {
        if (job->own) {
          job->own->model.AddGradients(absl::MakeSpan(&batch, 1));
          job->loss_sum += batch.loss_sum;
          continue;
        }
        batches.push_back(std::move(batch));
        owners.push_back(job.get());
      }
    }
    for (size_t first = 0; first < batches.size();) {
      const size_t end = EndOfPass(batches, first);
      model_->AddGradients(absl::MakeSpan(batches).subspan(first, end - first));
      for (; first < end; ++first) owners[first]->loss_sum += batches[first].loss_sum;
    }
    return absl::OkStatus();
  }

  size_t EndOfPass(const std::vector<FastModel::MicroBatch>& batches, size_t first) const {
    int64_t tokens = batches[first].num_tokens();
    size_t end = first + 1;
    for (; end < batches.size(); ++end) {
      tokens += batches[end].num_tokens();
      if (tokens > limits_.tokens_per_pass) break;
    }
    return end;
  }

  const ResidentLimits limits_;
  const std::shared_ptr<const LlamaWeights> base_;
  const std::string device_name_;
  const c10::Device device_;
  // From the first job on.
  Factors factors_ = Fp32Factors();
  std::optional<LlamaWeights> rounded_;  // the base in bf16
  std::optional<FastModel> model_;
  std::shared_ptr<const ResidentBase> device_base_;  // null: no job on the device path so far
  std::optional<QueuedJob> waiting_;                 // taken from the queue, does not fit yet
  std::vector<std::unique_ptr<ActiveJob>> active_;
};

}  // namespace

absl::Status CheckResident(const TrainingJob& job, absl::string_view device) {
  const LoraRecipe& recipe = job.recipe;
  if (recipe.method != TrainingMethod::kLora) return Refused("recipe.method full");
  if (recipe.path == TrainingPath::kReference) return Refused("recipe.path reference");
  const at::DeviceType type = device == "cpu" ? at::kCPU : at::kCUDA;
  RETURN_IF_ERROR(PathOn(type, recipe).status());
  if (recipe.init_lora_weights != LoraInit::kKaiming) {
    return Refused("recipe.init_lora_weights pissa or olora");
  }
  const WeightStorage storage =
      job.base->compact ? job.base->compact->storage : WeightStorage::kFp32;
  if (TakesBase(recipe, device, storage)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "recipe.base_weights: ", WeightStorageName(recipe.base_weights), ", the base in memory is ",
      WeightStorageName(storage), "; all jobs of a list share one"));
}

absl::Status ValidateLimits(const ResidentLimits& limits) {
  const std::pair<const char*, int64_t> values[] = {{"max_adapters", limits.max_adapters},
                                                    {"tokens_per_step", limits.tokens_per_step},
                                                    {"tokens_per_pass", limits.tokens_per_pass}};
  for (const auto& [name, value] : values) {
    if (value >= 1) continue;
    return absl::InvalidArgumentError(absl::StrCat(name, " is ", value, ", not at least 1"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<ResidentTrainer>> ResidentTrainer::Create(
    std::shared_ptr<const LlamaWeights> base, const ResidentLimits& limits,
    const std::string& device) {
  RETURN_IF_ERROR(ValidateLimits(limits));
  return CatchTorch("train", [&]() -> absl::StatusOr<std::unique_ptr<ResidentTrainer>> {
    ASSIGN_OR_RETURN(const c10::Device opened, OpenDevice(device));
    return std::make_unique<Trainer>(std::move(base), limits, device, opened);
  });
}

std::vector<JobOutcome> ResidentTrainer::RunAll(std::vector<QueuedJob> jobs, FileSystem& fs,
                                                const Clock& clock, std::stop_token stop) {
  std::vector<JobOutcome> outcomes;
  for (const QueuedJob& job : jobs) outcomes.push_back({.name = job.name});
  size_t next = 0;
  const auto give = [&]() -> std::optional<QueuedJob> {
    if (next == jobs.size()) return std::nullopt;
    return std::move(jobs[next++]);
  };
  const auto take = [&](JobOutcome outcome) {
    const auto place = std::find_if(outcomes.begin(), outcomes.end(), [&](const JobOutcome& other) {
      return other.name == outcome.name;
    });
    *place = std::move(outcome);
  };
  Run(give, take, fs, clock, stop).IgnoreError();  // each job's outcome has it
  return outcomes;
}

}  // namespace evolora
