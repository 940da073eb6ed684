#include "evolora/trainers/sweep.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "checkpoint.h"
#include "evolora/core/sha256.h"
#include "evolora/core/status_macros.h"
#include "sweep_plan.h"

namespace evolora {
namespace {

constexpr uint64_t kMaxFileBytes = uint64_t{64} << 20;

// Whatever decides who is stopped when.
std::string SweepDigest(const std::vector<SweepTrial>& trials, const SweepOptions& options) {
  Json jobs = Json::array();
  for (const SweepTrial& trial : trials) jobs.push_back({trial.name, JobDigest(trial.job)});
  return Sha256Hex(CanonicalJson(Json{{"jobs", jobs},
                                      {"held_out", TrainingRowsDigest(options.held_out)},
                                      {"num_rungs", options.num_rungs},
                                      {"keep", options.keep}}));
}

// What is known of a sweep between two rungs; sweep.json holds it.
struct Progress {
  int64_t rungs_done = 0;
  std::vector<TrialReport> trials;
};

Json ToJson(const Progress& progress, const std::string& digest) {
  Json trials = Json::array();
  for (const TrialReport& trial : progress.trials) {
    trials.push_back({{"name", trial.name},
                      {"held_out_losses", trial.held_out_losses},
                      {"steps", trial.steps},
                      {"total_steps", trial.total_steps},
                      {"error_code", static_cast<int64_t>(trial.status.code())},
                      {"error", std::string(trial.status.message())}});
  }
  return Json{{"format", "evolora-sweep"},
              {"version", 1},
              {"sweep", digest},
              {"rungs_done", progress.rungs_done},
              {"trials", trials}};
}

absl::Status ReadTrial(const Json& json, TrialReport& trial) {
  JsonFields fields(json, "trial");
  if (fields.String("name") != trial.name) fields.Fail("name", "not in the sweep's order");
  for (const Json& loss : fields.Array("held_out_losses")) {
    if (!loss.is_number()) fields.Fail("held_out_losses", "not numbers");
    trial.held_out_losses.push_back(loss.is_number() ? loss.get<double>() : 0);
  }
  trial.steps = fields.Integer("steps", 0, INT64_MAX);
  trial.total_steps = fields.Integer("total_steps", 0, INT64_MAX);
  const int64_t code = fields.Integer("error_code", 0, 16);
  trial.status = absl::Status(static_cast<absl::StatusCode>(code), fields.String("error"));
  return fields.Done();
}

class Sweep {
 public:
  Sweep(const std::vector<SweepTrial>& trials, const SweepOptions& options, FileSystem& fs,
        const Clock& clock)
      : trials_(trials), options_(options), fs_(fs), clock_(clock) {}

  absl::StatusOr<SweepReport> Run(const std::stop_token& stop) {
    RETURN_IF_ERROR(CheckSweep(trials_, options_));
    if (options_.folder.empty()) return absl::InvalidArgumentError("sweep: no folder");
    RETURN_IF_ERROR(fs_.CreateDirectories(options_.folder));
    digest_ = SweepDigest(trials_, options_);
    RETURN_IF_ERROR(Load());
    ASSIGN_OR_RETURN(trainer_, ResidentTrainer::Create(trials_.front().job.base, options_.limits,
                                                       options_.device));
    while (progress_.rungs_done < options_.num_rungs) {
      RETURN_IF_ERROR(RunRung(Alive(), stop));
      ++progress_.rungs_done;
      RETURN_IF_ERROR(Save());
    }
    return Report(stop);
  }

 private:
  // Trials that go into the next rung, in the list's order.
  std::vector<size_t> Alive() const {
    std::vector<size_t> alive;
    for (size_t i = 0; i < trials_.size(); ++i) alive.push_back(i);
    for (int64_t rung = 0; rung < progress_.rungs_done; ++rung) alive = Survivors(alive, rung);
    return alive;
  }

  // Of n trials that entered a rung, the ceil(keep n) that go on from it; failed ones never do.
  std::vector<size_t> Survivors(const std::vector<size_t>& entered, int64_t rung) const {
    std::vector<size_t> left;
    for (const size_t i : entered) {
      if (static_cast<int64_t>(progress_.trials[i].held_out_losses.size()) > rung)
        left.push_back(i);
    }
    const auto loss = [&](size_t i) {
      return progress_.trials[i].held_out_losses[static_cast<size_t>(rung)];
    };
    std::stable_sort(left.begin(), left.end(),
                     [&](size_t a, size_t b) { return loss(a) < loss(b); });
    const auto count =
        static_cast<size_t>(NumSurvivors(static_cast<int64_t>(entered.size()), options_));
    if (left.size() > count) left.resize(count);
    std::sort(left.begin(), left.end());
    return left;
  }

  QueuedJob JobOf(size_t i, int64_t steps) const {
    const std::string& name = trials_[i].name;
    const std::string work_dir = JoinPath(options_.folder, name);
    QueuedJob queued{.name = name,
                     .job = trials_[i].job,
                     .options = {.device = options_.device,
                                 .device_graphs = options_.device_graphs,
                                 .work_dir = work_dir,
                                 .resume = true,  // the sweep is this one, the folder its own
                                 .metrics_dir = JoinPath(work_dir, "metrics")},
                     .stop_after = steps,
                     .held_out = options_.held_out};
    if (options_.on_step) {
      queued.options.on_step = [this, name](const StepReport& step) {
        options_.on_step(name, step);
      };
    }
    return queued;
  }

  absl::Status RunRung(const std::vector<size_t>& alive, const std::stop_token& stop) {
    std::vector<QueuedJob> jobs;
    for (const size_t i : alive) {
      jobs.push_back(
          JobOf(i, StepsAtRung(progress_.trials[i].total_steps, options_, progress_.rungs_done)));
    }
    const std::vector<JobOutcome> outcomes = trainer_->RunAll(std::move(jobs), fs_, clock_, stop);
    if (stop.stop_requested()) return absl::CancelledError("the sweep was stopped");
    for (size_t k = 0; k < alive.size(); ++k) {
      RETURN_IF_ERROR(Take(outcomes[k], progress_.trials[alive[k]]));
    }
    return absl::OkStatus();
  }

  // A trial fails by what its recipe does; anything else is the sweep's failure.
  static absl::Status Take(const JobOutcome& outcome, TrialReport& trial) {
    const absl::Status& status = outcome.trained.status();
    if (status.ok() && std::isfinite(*outcome.held_out_loss)) {
      trial.steps = static_cast<int64_t>(outcome.trained->history.size());
      trial.held_out_losses.push_back(*outcome.held_out_loss);
      return absl::OkStatus();
    }
    if (!status.ok() && !absl::IsAborted(status) && !absl::IsInvalidArgument(status) &&
        !absl::IsUnimplemented(status)) {
      return Annotate(status, absl::StrCat("trial ", outcome.name));
    }
    trial.status = status.ok() ? absl::AbortedError("the held-out loss is not finite") : status;
    return absl::OkStatus();
  }

  absl::Status Load() {
    for (const SweepTrial& trial : trials_) {
      const int64_t replay = std::count_if(trial.job.rows.begin(), trial.job.rows.end(),
                                           [](const TrainingRow& row) { return row.replay; });
      const auto rows = static_cast<int64_t>(trial.job.rows.size());
      progress_.trials.push_back(
          {.name = trial.name, .total_steps = TotalSteps(trial.job.recipe, rows - replay, replay)});
    }
    if (!fs_.Exists(FilePath())) return Save();
    if (!options_.resume) {
      return absl::FailedPreconditionError(
          absl::StrCat(options_.folder, " holds a sweep: resume it or take another folder"));
    }
    ASSIGN_OR_RETURN(const std::string text, fs_.ReadFile(FilePath(), kMaxFileBytes));
    ASSIGN_OR_RETURN(const Json json, ParseJson(text));
    JsonFields fields(json, FilePath());
    if (fields.String("format") != "evolora-sweep") fields.Fail("format", "not evolora-sweep");
    fields.Integer("version", 1, 1);
    const bool same = fields.String("sweep") == digest_;
    progress_.rungs_done = fields.Integer("rungs_done", 0, options_.num_rungs);
    const Json& trials = fields.Array("trials");
    RETURN_IF_ERROR(fields.Done());
    if (!same || trials.size() != trials_.size()) {
      return absl::FailedPreconditionError(absl::StrCat(
          options_.folder, " holds another sweep (recipes, rows, rungs or keep differ)"));
    }
    for (size_t i = 0; i < trials_.size(); ++i) {
      RETURN_IF_ERROR(ReadTrial(trials[i], progress_.trials[i]));
    }
    return absl::OkStatus();
  }

  std::string FilePath() const { return JoinPath(options_.folder, "sweep.json"); }

  absl::Status Save() {
    return fs_.WriteFileAtomic(FilePath(), CanonicalJson(ToJson(progress_, digest_)));
  }

  // The best of the last rung, its adapter taken from its checkpoint.
  absl::StatusOr<SweepReport> Report(const std::stop_token& stop) {
    const auto last = static_cast<size_t>(options_.num_rungs);
    std::optional<size_t> best;
    for (size_t i = 0; i < trials_.size(); ++i) {
      const std::vector<double>& losses = progress_.trials[i].held_out_losses;
      if (losses.size() < last) continue;
      if (!best || losses.back() < progress_.trials[*best].held_out_losses.back()) best = i;
    }
    if (!best.has_value()) return NoneLeft();
    std::vector<JobOutcome> outcomes =
        trainer_->RunAll({JobOf(*best, progress_.trials[*best].total_steps)}, fs_, clock_, stop);
    RETURN_IF_ERROR(outcomes.front().trained.status());
    return SweepReport{progress_.trials, static_cast<int64_t>(*best),
                       *std::move(outcomes.front().trained)};
  }

  absl::Status NoneLeft() const {
    for (const TrialReport& trial : progress_.trials) {
      if (trial.status.ok()) continue;
      return absl::AbortedError(
          absl::StrCat("every trial failed; ", trial.name, ": ", trial.status.ToString()));
    }
    return absl::InternalError("a sweep without a best trial");
  }

  const std::vector<SweepTrial>& trials_;
  const SweepOptions& options_;
  FileSystem& fs_;
  const Clock& clock_;
  std::string digest_;
  std::unique_ptr<ResidentTrainer> trainer_;
  Progress progress_;
};

}  // namespace

absl::StatusOr<SweepReport> RunSweep(const std::vector<SweepTrial>& trials,
                                     const SweepOptions& options, FileSystem& fs,
                                     const Clock& clock, std::stop_token stop) {
  return Sweep(trials, options, fs, clock).Run(stop);
}

}  // namespace evolora
