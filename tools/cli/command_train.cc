// train: LoRA adapters or whole bases from files of rows; also what the loop runs as a child
// process.
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <optional>
#include <utility>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "evolora/core/clock.h"
#include "evolora/core/status_macros.h"
#include "evolora/model/init_torch.h"
#include "evolora/pipeline/base_store.h"
#include "evolora/trainers/lora_trainer.h"
#include "evolora/trainers/process_group.h"
#include "evolora/trainers/work_folder_lock.h"
#include "interrupt.h"
#include "options.h"
#include "output.h"
#include "train_dry_run.h"
#include "train_full.h"
#include "train_job.h"
#include "train_jobs.h"
#include "train_sweep.h"

namespace evolora::cli {
namespace {

struct TrainCommand {
  std::string base;
  JobFiles files;
  JobListOptions jobs;  // path empty: one adapter
  SweepCommand sweep;   // no axes: one adapter
  std::string device = "cpu";
  bool no_graphs = false;
  bool resume = false;
  bool dry_run = false;
  double gflops = 0;
};

// A job with what its result is written with.
struct LoadedJob {
  CheckedJob checked;
  std::optional<HfFolderExtras> folder;  // of the method full
};

absl::StatusOr<LoadedJob> LoadJob(const GlobalOptions& global, const TrainCommand& command) {
  LoadedJob loaded;
  ASSIGN_OR_RETURN(const LoraRecipe recipe, ReadRecipe(command.files));
  ASSIGN_OR_RETURN(const LoadedBase base,
                   LoadStoredBase(PosixFileSystem(), global.home, command.base,
                                  StorageToLoad(recipe, command.device)));
  ASSIGN_OR_RETURN(loaded.checked, BuildJob(base, command.files, recipe));
  if (recipe.method == TrainingMethod::kFull) {
    ASSIGN_OR_RETURN(loaded.folder, PrepareFolder(global.home, base, loaded.checked.warnings));
  }
  return loaded;
}

// Shows steps: JSON lines, or a bar on stderr.
class StepPrinter {
 public:
  explicit StepPrinter(bool json) : json_(json) {}
  void Show(const StepReport& step) {
    if (json_) {
      PrintJson(StepJson(step));
    } else {
      std::string text = absl::StrFormat("loss %.4f, ", step.loss);
      for (const auto& [name, value] : step.figures) {
        absl::StrAppendFormat(&text, "%s %.4f, ", name, value);
      }
      const double rate = step.seconds > 0 ? static_cast<double>(step.tokens) / step.seconds : 0;
      bar_.Update("train", step.step, step.total_steps,
                  absl::StrFormat("%s%.0f tokens/s", text, rate));
    }
  }

 private:
  bool json_;
  ProgressBar bar_;
};

absl::Status DryRun(const GlobalOptions& global, const TrainCommand& command) {
  RETURN_IF_ERROR(InitTorch(NumThreads(global)));
  ASSIGN_OR_RETURN(const LoadedJob loaded, LoadJob(global, command));
  const CheckedJob& checked = loaded.checked;
  ShowWarnings(checked);
  return ShowDryRun(global, checked.job,
                    {.device = command.device, .device_graphs = !command.no_graphs},
                    checked.warnings, command.gflops);
}

const char* Environment(const char* name) { return std::getenv(name); }

// A rank beside the first: computes its share and writes nothing.
absl::Status TrainAsHelper(const GlobalOptions& global, const TrainCommand& command,
                           const ProcessGroupOptions& ranks) {
  ASSIGN_OR_RETURN(const LoadedJob loaded, LoadJob(global, command));
  ASSIGN_OR_RETURN(const std::unique_ptr<ProcessGroup> group, JoinProcessGroup(ranks));
  const TrainOptions options{.device = command.device,
                             .device_graphs = !command.no_graphs,
                             .work_dir = WorkFolder(command.files),
                             .resume = command.resume,
                             .group = group.get()};
  const Interrupt interrupt;
  const auto train = [&](auto trainer) {
    return trainer(loaded.checked.job, options, PosixFileSystem(), SystemClock(), interrupt.token())
        .status();
  };
  return loaded.folder ? train(TrainFull) : train(TrainLora);
}

// Trains, writes the result and says so.
absl::Status TrainOne(const GlobalOptions& global, const JobFiles& files, const LoadedJob& loaded,
                      const TrainOptions& options) {
  const TrainingJob& job = loaded.checked.job;
  const Interrupt interrupt;
  const auto say = [&](const char* what, const std::vector<StepReport>& history,
                       const std::string& digest) {
    if (global.json) return;
    std::printf("%s %s: %zu steps, final loss %.4f, digest %s\n", what, files.out.c_str(),
                history.size(), history.back().loss, digest.substr(0, 12).c_str());
  };
  if (!loaded.folder) {
    ASSIGN_OR_RETURN(const TrainedAdapter trained,
                     TrainLora(job, options, PosixFileSystem(), SystemClock(), interrupt.token()));
    RETURN_IF_ERROR(WriteResult(files, trained));
    say("adapter", trained.history, AdapterDigest(trained.adapter));
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(const TrainedBase trained,
                   TrainFull(job, options, PosixFileSystem(), SystemClock(), interrupt.token()));
  RETURN_IF_ERROR(WriteResult(files, trained, *loaded.folder));
  ASSIGN_OR_RETURN(const std::string digest, WeightsFingerprint(*trained.weights));
  say("base", trained.history, digest);
  return absl::OkStatus();
}

absl::Status Train(const GlobalOptions& global, const TrainCommand& command) {
  RETURN_IF_ERROR(CheckTrainingDevice(command.device));
  FileSystem& files = PosixFileSystem();
  if (files.Exists(command.files.out)) {
    return absl::FailedPreconditionError(absl::StrCat(command.files.out, " exists already"));
  }
  RETURN_IF_ERROR(InitTorch(NumThreads(global)));
  ASSIGN_OR_RETURN(const ProcessGroupOptions ranks,
                   ProcessGroupOptionsFromEnvironment(&Environment));
  if (ranks.rank > 0) return TrainAsHelper(global, command, ranks);
  const std::string work_dir = WorkFolder(command.files);
  RETURN_IF_ERROR(files.CreateDirectories(work_dir));
  ASSIGN_OR_RETURN(const WorkFolderLock lock, WorkFolderLock::Take(work_dir));
  ASSIGN_OR_RETURN(const LoadedJob loaded, LoadJob(global, command));
  ShowWarnings(loaded.checked);
  ASSIGN_OR_RETURN(const std::string metrics_dir, MetricsFolder(command.files, command.resume));
  std::unique_ptr<ProcessGroup> group;
  if (ranks.size > 1) {
    ASSIGN_OR_RETURN(group, JoinProcessGroup(ranks));
  }
  StepPrinter printer(global.json);
  const TrainOptions options{.device = command.device,
                             .device_graphs = !command.no_graphs,
                             .work_dir = work_dir,
                             .resume = command.resume,
                             .metrics_dir = metrics_dir,
                             .on_step = [&](const StepReport& step) { printer.Show(step); },
                             .group = group.get()};
  return TrainOne(global, command.files, loaded, options);
}

// What would be ignored beside --jobs or --sweep, and without them.
absl::Status CheckMany(const CLI::App& app, const TrainCommand& command) {
  const bool many = !command.jobs.path.empty() || !command.sweep.axes.empty();
  for (const char* limit : {"--max-adapters", "--tokens-per-step", "--tokens-per-pass"}) {
    if (!many && app.count(limit) > 0) throw CLI::RequiresError(limit, "--jobs or --sweep");
  }
  if (!many) return absl::OkStatus();
  ASSIGN_OR_RETURN(const ProcessGroupOptions ranks,
                   ProcessGroupOptionsFromEnvironment(&Environment));
  if (ranks.size > 1) return absl::UnimplementedError("--jobs and --sweep train in one process");
  return command.dry_run ? absl::OkStatus() : CheckTrainingDevice(command.device);
}

absl::Status Dispatch(const GlobalOptions& global, const CLI::App& app, TrainCommand& command) {
  RETURN_IF_ERROR(CheckMany(app, command));
  if (!command.jobs.path.empty()) {
    command.jobs.base = command.base;
    command.jobs.resume = command.resume;
    command.jobs.dry_run = command.dry_run;
    command.jobs.gflops = command.gflops;
    command.jobs.device = command.device;
    command.jobs.device_graphs = !command.no_graphs;
    return TrainJobs(global, command.jobs);
  }
  if (command.files.data.empty()) throw CLI::RequiredError("--data");
  if (command.files.recipe.empty()) throw CLI::RequiredError("--recipe");
  const bool sweeps = !command.sweep.axes.empty();
  if (command.dry_run && !sweeps) return DryRun(global, command);
  if (command.files.out.empty() && !command.dry_run) throw CLI::RequiredError("--out");
  if (sweeps) {
    command.sweep.dry_run = command.dry_run;
    command.sweep.gflops = command.gflops;
    command.sweep.base = command.base;
    command.sweep.files = command.files;
    command.sweep.resume = command.resume;
    command.sweep.sweep.limits = command.jobs.limits;
    command.sweep.sweep.device = command.device;
    command.sweep.sweep.device_graphs = !command.no_graphs;
    return TrainSweep(global, command.sweep);
  }
  return Train(global, command);
}

void AddFileOptions(CLI::App& command, TrainCommand& options) {
  JobFiles& files = options.files;
  command.add_option("--base", options.base, "base model of this home")->required();
  command.add_option("--data", files.data,
                     "JSON lines; what a row holds depends on the recipe's objective");
  command.add_option("--recipe", files.recipe, "JSON file of the recipe");
  command.add_option(
      "--out", files.out,
      "folder to write: an adapter as PEFT has it, or with the recipe's method full a base as "
      "Hugging Face has it; its work folder is OUT.work (not with --dry-run)");
  command.add_option("--init", files.init, "PEFT folder to start from");
  command.add_option("--protect", files.protect,
                     "JSON lines {text}: refuse to train on these or their near-duplicates");
  command.add_option("--metrics", files.metrics,
                     "folder for metrics.h5 and TensorBoard event files of this run alone; default "
                     "OUT.work/metrics");
}

void AddManyOptions(CLI::App& command, TrainCommand& options) {
  CLI::Option* jobs = command.add_option(
      "--jobs", options.jobs.path,
      "train many adapters at once: JSON lines {data, recipe, out, init?, protect?, metrics?}");
  for (const char* one : {"--data", "--recipe", "--out", "--init", "--protect", "--metrics"}) {
    jobs->excludes(command.get_option(one));
  }
  SweepCommand& sweep = options.sweep;
  CLI::Option* axes =
      command
          .add_option("--sweep", sweep.axes,
                      "KEY=VALUE,VALUE..: train every combination of recipe values at once, stop "
                      "the weak ones early and write the best; may be given several times")
          ->allow_extra_args(false)
          ->excludes(jobs)
          ->excludes(command.get_option("--metrics"));
  CLI::Option* held_out =
      command.add_option("--held-out", sweep.held_out,
                         "JSON lines that --sweep compares by; default: a share of --data");
  held_out->needs(axes);
  command
      .add_option("--held-out-share", sweep.held_out_share,
                  "share of --data that is not trained on but compared by; default 0.2")
      ->needs(axes)
      ->excludes(held_out);
  command.add_option("--rungs", sweep.sweep.num_rungs, "times that --sweep compares; default 3")
      ->needs(axes);
  command
      .add_option("--keep", sweep.sweep.keep,
                  "share of the recipes that goes on from each rung; default 0.5")
      ->needs(axes);
  ResidentLimits& limits = options.jobs.limits;
  const auto limit = [&](const char* name, int64_t& value, const char* what) {
    command.add_option(name, value, absl::StrCat(what, " of --jobs and --sweep; default ", value));
  };
  limit("--max-adapters", limits.max_adapters, "most adapters in a step");
  limit("--tokens-per-step", limits.tokens_per_step, "most tokens of a step");
  limit("--tokens-per-pass", limits.tokens_per_pass, "most tokens computed at once");
}

}  // namespace

void AddTrainCommand(CLI::App& app, GlobalOptions& global) {
  auto options = std::make_shared<TrainCommand>();
  CLI::App* command =
      app.add_subcommand("train", "train one LoRA adapter, or many at once, or a base as a whole");
  AddFileOptions(*command, *options);
  AddManyOptions(*command, *options);
  command->add_option("--device", options->device, "cpu (default), cuda or cuda:N");
  command->add_flag("--no-graphs", options->no_graphs,
                    "on a CUDA device start every kernel by itself, without CUDA graphs");
  command->add_flag("--resume", options->resume, "go on from the checkpoint in OUT.work");
  CLI::Option* dry_run = command->add_flag(
      "--dry-run", options->dry_run,
      "check the data and show steps, tokens, memory, FLOPs and time; train and write nothing");
  command->add_option("--gflops", options->gflops, "rate for the time of --dry-run; 0 = measure")
      ->check(CLI::Range(0.0, 1e9))
      ->needs(dry_run);
  command->callback(
      [&global, command, options] { FinishCommand(Dispatch(global, *command, *options)); });
}

}  // namespace evolora::cli
