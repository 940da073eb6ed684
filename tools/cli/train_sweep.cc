#include "train_sweep.h"

#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "evolora/core/clock.h"
#include "evolora/core/status_macros.h"
#include "evolora/model/init_torch.h"
#include "evolora/trainers/data_lint.h"
#include "evolora/trainers/work_folder_lock.h"
#include "interrupt.h"
#include "train_dry_run.h"

namespace evolora::cli {
namespace {

absl::StatusOr<std::vector<SweepPoint>> ReadPoints(const SweepCommand& command) {
  ASSIGN_OR_RETURN(const std::string text,
                   PosixFileSystem().ReadFile(command.files.recipe, 1 << 20));
  const absl::StatusOr<Json> recipe = ParseJson(text);
  if (!recipe.ok()) return Annotate(recipe.status(), command.files.recipe);
  std::vector<SweepAxis> axes;
  for (const std::string& axis : command.axes) {
    ASSIGN_OR_RETURN(SweepAxis parsed, ParseSweepAxis(axis));
    axes.push_back(std::move(parsed));
  }
  return SweepPoints(*recipe, axes);
}

// Rows to compare the trials by: of a file, or taken out of the job's.
absl::StatusOr<std::vector<TrainingRow>> HeldOutRows(const SweepCommand& command,
                                                     const LoadedBase& base, uint64_t seed,
                                                     TrainingJob& job) {
  if (command.held_out.empty()) return TakeHeldOut(job.rows, command.held_out_share, seed);
  ASSIGN_OR_RETURN(const std::string data,
                   PosixFileSystem().ReadFile(command.held_out, uint64_t{8} << 30));
  absl::StatusOr<std::vector<TrainingRow>> rows = ParseTrainingRows(data, base.model);
  if (!rows.ok()) return Annotate(rows.status(), command.held_out);
  CutLongRows(*rows, LimitsOf(job));
  return rows;
}

std::string OutcomeOf(const SweepReport& report, size_t i, int64_t num_rungs) {
  const TrialReport& trial = report.trials[i];
  if (static_cast<int64_t>(i) == report.best) return "best";
  if (!trial.status.ok()) return Shorten(trial.status.message(), 60);
  const auto rungs = static_cast<int64_t>(trial.held_out_losses.size());
  return rungs == num_rungs ? "to the end" : absl::StrCat("stopped at rung ", rungs);
}

void ShowTable(const SweepReport& report, int64_t num_rungs) {
  std::vector<std::string> titles = {"trial", "steps"};
  for (int64_t rung = 1; rung <= num_rungs; ++rung) {
    titles.push_back(absl::StrCat("held-out loss ", rung));
  }
  titles.push_back("outcome");
  Table table(titles);
  for (size_t i = 0; i < report.trials.size(); ++i) {
    const TrialReport& trial = report.trials[i];
    std::vector<std::string> cells = {trial.name,
                                      absl::StrCat(trial.steps, " of ", trial.total_steps)};
    for (size_t rung = 0; rung < static_cast<size_t>(num_rungs); ++rung) {
      const bool reached = rung < trial.held_out_losses.size();
      cells.push_back(reached ? absl::StrFormat("%.4f", trial.held_out_losses[rung]) : "-");
    }
    cells.push_back(OutcomeOf(report, i, num_rungs));
    table.Add(std::move(cells));
  }
  std::printf("%s", table.ToText().c_str());
}

void ShowReport(const GlobalOptions& global, const SweepReport& report, int64_t num_rungs) {
  if (!global.json) return ShowTable(report, num_rungs);
  for (size_t i = 0; i < report.trials.size(); ++i) {
    const TrialReport& trial = report.trials[i];
    PrintJson(Json{{"trial", trial.name},
                   {"steps", trial.steps},
                   {"total_steps", trial.total_steps},
                   {"held_out_losses", trial.held_out_losses},
                   {"best", static_cast<int64_t>(i) == report.best},
                   {"error", trial.status.ok() ? "" : trial.status.ToString()}});
  }
}

// The trials and what they are compared by.
struct Prepared {
  std::vector<SweepTrial> trials;
  std::vector<TrainingRow> held_out;
};

absl::StatusOr<Prepared> Prepare(const GlobalOptions& global, const SweepCommand& command) {
  ASSIGN_OR_RETURN(std::vector<SweepPoint> points, ReadPoints(command));
  std::vector<LoraRecipe> recipes;
  for (const SweepPoint& point : points) recipes.push_back(point.recipe);
  ASSIGN_OR_RETURN(const LoadedBase base,
                   LoadStoredBase(PosixFileSystem(), global.home, command.base,
                                  StorageToLoad(recipes, command.sweep.device)));
  Prepared prepared;
  const uint64_t seed = points.front().recipe.seed;  // one choice of rows for all trials
  for (SweepPoint& point : points) {
    ASSIGN_OR_RETURN(CheckedJob checked, BuildJob(base, command.files, point.recipe));
    if (prepared.trials.empty()) ShowWarnings(checked);
    ASSIGN_OR_RETURN(prepared.held_out, HeldOutRows(command, base, seed, checked.job));
    prepared.trials.push_back({std::move(point.name), std::move(checked.job)});
  }
  return prepared;
}

}  // namespace

static absl::Status DryRunSweep(const GlobalOptions& global, const SweepCommand& command) {
  RETURN_IF_ERROR(InitTorch(NumThreads(global)));
  ASSIGN_OR_RETURN(Prepared prepared, Prepare(global, command));
  SweepOptions options = command.sweep;
  options.held_out = std::move(prepared.held_out);
  ASSIGN_OR_RETURN(const SetForecast forecast, ForecastSweep(prepared.trials, options));
  ShowSetDryRun(global, prepared.trials.front().job, forecast, /*upper_bound=*/true,
                command.gflops);
  return absl::OkStatus();
}

absl::Status TrainSweep(const GlobalOptions& global, const SweepCommand& command) {
  if (command.dry_run) return DryRunSweep(global, command);
  FileSystem& files = PosixFileSystem();
  if (files.Exists(command.files.out)) {
    return absl::FailedPreconditionError(absl::StrCat(command.files.out, " exists already"));
  }
  RETURN_IF_ERROR(InitTorch(NumThreads(global)));
  const std::string work_dir = WorkFolder(command.files);
  RETURN_IF_ERROR(files.CreateDirectories(work_dir));
  ASSIGN_OR_RETURN(const WorkFolderLock lock, WorkFolderLock::Take(work_dir));
  ASSIGN_OR_RETURN(Prepared prepared, Prepare(global, command));
  ProgressBar bar;
  SweepOptions options = command.sweep;
  options.held_out = std::move(prepared.held_out);
  options.folder = work_dir;
  options.resume = command.resume;
  options.on_step = [&](const std::string& trial, const StepReport& step) {
    if (!global.json) {
      return bar.Update("sweep", step.step, step.total_steps,
                        absl::StrFormat("%s: loss %.4f", trial, step.loss));
    }
    Json line = StepJson(step);
    line["trial"] = trial;
    PrintJson(line);
  };
  const Interrupt interrupt;
  ASSIGN_OR_RETURN(const SweepReport report,
                   RunSweep(prepared.trials, options, files, SystemClock(), interrupt.token()));
  bar.Clear();
  RETURN_IF_ERROR(WriteResult(command.files, report.adapter));
  ShowReport(global, report, options.num_rungs);
  if (!global.json) {
    std::printf("adapter %s: %s\n", command.files.out.c_str(),
                report.trials[static_cast<size_t>(report.best)].name.c_str());
  }
  return absl::OkStatus();
}

}  // namespace evolora::cli
