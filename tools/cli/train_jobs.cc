#include "train_jobs.h"

#include <cstdio>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "evolora/core/clock.h"
#include "evolora/core/status_macros.h"
#include "evolora/model/init_torch.h"
#include "evolora/trainers/work_folder_lock.h"
#include "interrupt.h"
#include "train_dry_run.h"
#include "train_job.h"

namespace evolora::cli {
namespace {

absl::StatusOr<JobFiles> ParseJob(absl::string_view line, const std::string& where) {
  absl::StatusOr<Json> json = ParseJson(line);
  if (!json.ok()) return Annotate(json.status(), where);
  JsonFields fields(*json, where);
  JobFiles files{.data = fields.String("data"),
                 .recipe = fields.String("recipe"),
                 .out = fields.String("out"),
                 .init = fields.OptionalString("init").value_or(""),
                 .protect = fields.OptionalString("protect").value_or(""),
                 .metrics = fields.OptionalString("metrics").value_or("")};
  RETURN_IF_ERROR(fields.Done());
  return files;
}

absl::StatusOr<std::vector<JobFiles>> ReadJobs(const std::string& path) {
  ASSIGN_OR_RETURN(const std::string all, PosixFileSystem().ReadFile(path, uint64_t{1} << 28));
  std::vector<JobFiles> jobs;
  std::set<std::string> outs;
  int64_t number = 0;
  for (absl::string_view line : absl::StrSplit(all, '\n')) {
    const std::string where = absl::StrCat(path, ":", ++number);
    if (absl::StripAsciiWhitespace(line).empty()) continue;
    ASSIGN_OR_RETURN(JobFiles files, ParseJob(line, where));
    if (!outs.insert(files.out).second) {
      return absl::InvalidArgumentError(absl::StrCat(where, ": out ", files.out, " twice"));
    }
    jobs.push_back(std::move(files));
  }
  if (jobs.empty()) return absl::InvalidArgumentError(absl::StrCat(path, ": no job"));
  return jobs;
}

// The jobs of a list on their way through the trainer.
class JobList {
 public:
  JobList(const GlobalOptions& global, const JobListOptions& options, const LoadedBase& base,
          std::vector<JobFiles> jobs)
      : global_(global), options_(options), base_(base), jobs_(std::move(jobs)) {}

  // The next job that can start.
  std::optional<QueuedJob> Next() {
    while (next_ < jobs_.size()) {
      const JobFiles& files = jobs_[next_++];
      if (options_.resume && PosixFileSystem().Exists(files.out)) {
        ++num_ended_;
        continue;
      }
      absl::StatusOr<QueuedJob> job = Start(files);
      if (job.ok()) return *std::move(job);
      Failed(files.out, job.status());
    }
    return std::nullopt;
  }

  void Take(JobOutcome outcome) {
    const Working& working = working_.at(outcome.name);
    absl::Status status = outcome.trained.status();
    if (status.ok()) status = WriteResult(*working.files, *outcome.trained);
    if (status.ok()) {
      ++num_ended_;
      ShowAdapter(outcome);
    } else {
      Failed(outcome.name, status);
    }
    working_.erase(outcome.name);
  }

  absl::Status Finish() {
    bar_.Clear();
    if (num_failed_ == 0) return absl::OkStatus();
    return absl::AbortedError(absl::StrCat(num_failed_, " of ", jobs_.size(), " jobs failed"));
  }

 private:
  struct Working {
    const JobFiles* files;
    WorkFolderLock lock;
  };

  absl::StatusOr<QueuedJob> Start(const JobFiles& files) {
    if (PosixFileSystem().Exists(files.out)) {
      return absl::FailedPreconditionError(absl::StrCat(files.out, " exists already"));
    }
    const std::string work_dir = WorkFolder(files);
    RETURN_IF_ERROR(PosixFileSystem().CreateDirectories(work_dir));
    ASSIGN_OR_RETURN(WorkFolderLock lock, WorkFolderLock::Take(work_dir));
    ASSIGN_OR_RETURN(CheckedJob checked, BuildJob(base_, files));
    ShowWarnings(checked);
    ASSIGN_OR_RETURN(const std::string metrics_dir, MetricsFolder(files, options_.resume));
    working_.emplace(files.out, Working{&files, std::move(lock)});
    return QueuedJob{.name = files.out,
                     .job = std::move(checked.job),
                     .options = {.device = options_.device,
                                 .device_graphs = options_.device_graphs,
                                 .work_dir = work_dir,
                                 .resume = options_.resume,
                                 .metrics_dir = metrics_dir,
                                 .on_step = [this, name = files.out](const StepReport& step) {
                                   ShowStep(name, step);
                                 }}};
  }

  void Failed(const std::string& name, const absl::Status& status) {
    ++num_ended_;
    ++num_failed_;
    bar_.Clear();
    std::fprintf(stderr, "evolora: %s: %s\n", name.c_str(), status.ToString().c_str());
  }

  void ShowStep(const std::string& name, const StepReport& step) {
    if (global_.json) {
      Json line = StepJson(step);
      line["job"] = name;
      return PrintJson(line);
    }
    bar_.Update("jobs", num_ended_, static_cast<int64_t>(jobs_.size()),
                absl::StrFormat("%s: step %d of %d, loss %.4f", name, step.step, step.total_steps,
                                step.loss));
  }

  void ShowAdapter(const JobOutcome& outcome) {
    const std::vector<StepReport>& history = outcome.trained->history;
    const std::string digest = AdapterDigest(outcome.trained->adapter);
    if (global_.json) {
      return PrintJson(Json{{"job", outcome.name},
                            {"steps", history.size()},
                            {"final_loss", history.back().loss},
                            {"join_seconds", outcome.join_seconds},
                            {"digest", digest}});
    }
    bar_.Clear();
    std::printf("adapter %s: joined in %.0f ms, %zu steps, final loss %.4f, digest %s\n",
                outcome.name.c_str(), 1e3 * outcome.join_seconds, history.size(),
                history.back().loss, digest.substr(0, 12).c_str());
  }

  const GlobalOptions& global_;
  const JobListOptions& options_;
  const LoadedBase& base_;
  const std::vector<JobFiles> jobs_;
  size_t next_ = 0;
  int64_t num_ended_ = 0;
  int64_t num_failed_ = 0;
  std::map<std::string, Working> working_;  // by out
  ProgressBar bar_;
};

}  // namespace

// How the base lies in memory: as suits the recipes that can be read. A job that says otherwise
// fails at its turn, and so does a recipe that cannot be read.
static WeightStorage StorageOf(const std::vector<JobFiles>& jobs, const std::string& device) {
  std::vector<LoraRecipe> recipes;
  for (const JobFiles& files : jobs) {
    absl::StatusOr<LoraRecipe> recipe = ReadRecipe(files);
    if (recipe.ok()) recipes.push_back(*std::move(recipe));
  }
  return StorageToLoad(recipes, device);
}

static absl::StatusOr<RunForecast> ForecastOf(const absl::StatusOr<CheckedJob>& checked,
                                              const JobListOptions& options) {
  RETURN_IF_ERROR(checked.status());
  RETURN_IF_ERROR(CheckResident(checked->job, options.device));
  return ForecastRun(checked->job,
                     {.device = options.device, .device_graphs = options.device_graphs});
}

// Jobs that cannot be trained are told and left out, as when they are trained.
static absl::Status DryRunJobs(const GlobalOptions& global, const JobListOptions& options,
                               const LoadedBase& base, const std::vector<JobFiles>& jobs) {
  std::vector<RunForecast> forecasts;
  std::optional<TrainingJob> any;
  for (const JobFiles& files : jobs) {
    absl::StatusOr<CheckedJob> checked = BuildJob(base, files);
    const absl::StatusOr<RunForecast> forecast = ForecastOf(checked, options);
    if (!forecast.ok()) {
      std::fprintf(stderr, "evolora: %s: %s\n", files.out.c_str(),
                   forecast.status().ToString().c_str());
      continue;
    }
    ShowWarnings(*checked);
    if (global.json) {
      PrintJson(Json{{"job", files.out},
                     {"steps", forecast->total_steps},
                     {"tokens", forecast->tokens},
                     {"trainable_parameters", forecast->trainable_parameters}});
    } else {
      std::printf("%s: %lld steps, %lld tokens, %lld parameters\n", files.out.c_str(),
                  static_cast<long long>(forecast->total_steps),
                  static_cast<long long>(forecast->tokens),
                  static_cast<long long>(forecast->trainable_parameters));
    }
    forecasts.push_back(*forecast);
    checked->job.rows.clear();
    any = std::move(checked->job);
  }
  if (any) {
    ShowSetDryRun(global, *any, ForecastJobs(forecasts, options.limits), /*upper_bound=*/false,
                  options.gflops);
  }
  if (forecasts.size() == jobs.size()) return absl::OkStatus();
  return absl::AbortedError(
      absl::StrCat(jobs.size() - forecasts.size(), " of ", jobs.size(), " jobs would fail"));
}

absl::Status TrainJobs(const GlobalOptions& global, const JobListOptions& options) {
  RETURN_IF_ERROR(InitTorch(NumThreads(global)));
  RETURN_IF_ERROR(ValidateLimits(options.limits));
  ASSIGN_OR_RETURN(std::vector<JobFiles> jobs, ReadJobs(options.path));
  ASSIGN_OR_RETURN(const LoadedBase base,
                   LoadStoredBase(PosixFileSystem(), global.home, options.base,
                                  StorageOf(jobs, options.device)));
  if (options.dry_run) return DryRunJobs(global, options, base, jobs);
  ASSIGN_OR_RETURN(const std::unique_ptr<ResidentTrainer> trainer,
                   ResidentTrainer::Create(base.model.weights, options.limits, options.device));
  JobList list(global, options, base, std::move(jobs));
  const Interrupt interrupt;
  RETURN_IF_ERROR(trainer->Run([&] { return list.Next(); },
                               [&](JobOutcome outcome) { list.Take(std::move(outcome)); },
                               PosixFileSystem(), SystemClock(), interrupt.token()));
  return list.Finish();
}

}  // namespace evolora::cli
