// train: one LoRA adapter from a file of rows; also what the loop runs as a child process.
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <utility>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "evolora/adapters/peft.h"
#include "evolora/core/clock.h"
#include "evolora/core/status_macros.h"
#include "evolora/model/init_torch.h"
#include "evolora/pipeline/base_store.h"
#include "evolora/trainers/data_lint.h"
#include "evolora/trainers/leak_check.h"
#include "evolora/trainers/lora_trainer.h"
#include "evolora/trainers/process_group.h"
#include "evolora/trainers/work_folder_lock.h"
#include "interrupt.h"
#include "options.h"
#include "output.h"
#include "train_dry_run.h"

namespace evolora::cli {
namespace {

struct TrainCommand {
  std::string base;
  std::string data;
  std::string recipe;
  std::string out;
  std::string init;
  std::string protect;
  std::string device = "cpu";
  std::string metrics;
  bool resume = false;
  bool dry_run = false;
  double gflops = 0;
};

absl::StatusOr<std::vector<std::string>> ReadProtected(const std::string& path) {
  std::vector<std::string> texts;
  if (path.empty()) return texts;
  ASSIGN_OR_RETURN(const std::string all, PosixFileSystem().ReadFile(path, uint64_t{1} << 30));
  int64_t number = 0;
  for (absl::string_view line : absl::StrSplit(all, '\n')) {
    ++number;
    if (absl::StripAsciiWhitespace(line).empty()) continue;
    absl::StatusOr<Json> json = ParseJson(line);
    if (!json.ok()) return Annotate(json.status(), absl::StrCat(path, ":", number));
    JsonFields f(*json, absl::StrCat(path, ":", number));
    texts.push_back(f.String("text"));
    RETURN_IF_ERROR(f.Done());
  }
  return texts;
}

// A job that passed the lint, and what is odd about its rows.
struct CheckedJob {
  TrainingJob job;
  std::vector<std::string> warnings;
};

// Lints the rows, holds them against the protected texts, and cuts what may be cut.
absl::Status CheckRows(const TrainCommand& command, CheckedJob& checked) {
  TrainingJob& job = checked.job;
  const LintLimits limits = LimitsOf(job);
  absl::Status lint = LintTrainingRows(job.rows, limits);
  if (!lint.ok()) return Annotate(lint, command.data);
  checked.warnings = TrainingRowWarnings(job.rows, limits);
  ASSIGN_OR_RETURN(const std::vector<std::string> guarded, ReadProtected(command.protect));
  RETURN_IF_ERROR(Annotate(CheckRowsLeakNothing(job.rows, guarded), command.data));
  const int64_t unchecked = CountRowsWithoutText(job.rows);
  if (!guarded.empty() && unchecked > 0) {
    checked.warnings.push_back(
        absl::StrCat(unchecked, " rows have no text and were not compared with ", command.protect));
  }
  CutLongRows(job.rows, limits);
  return absl::OkStatus();
}

absl::StatusOr<CheckedJob> BuildJob(const GlobalOptions& global, const TrainCommand& command) {
  FileSystem& files = PosixFileSystem();
  ASSIGN_OR_RETURN(const std::string recipe_text, files.ReadFile(command.recipe, 1 << 20));
  absl::StatusOr<LoraRecipe> recipe = ParseRecipe(recipe_text);
  if (!recipe.ok()) return Annotate(recipe.status(), command.recipe);
  if (GreatestRank(*recipe) > kMaxPortableRank) {
    return absl::InvalidArgumentError(
        absl::StrCat(command.recipe, ": would give an adapter of rank ", GreatestRank(*recipe),
                     "; PEFT folders are written up to ", kMaxPortableRank));
  }
  ASSIGN_OR_RETURN(const LoadedBase base, LoadStoredBase(files, global.home, command.base));
  ASSIGN_OR_RETURN(const std::string data, files.ReadFile(command.data, uint64_t{8} << 30));
  CheckedJob checked{.job = {.base = base.model.weights,
                             .base_name = base.stored.name,
                             .base_weights_fingerprint = base.stored.weights_fingerprint,
                             .recipe = *std::move(recipe),
                             .end_ids = EndOfTurnIds(base.model)}};
  absl::StatusOr<std::vector<TrainingRow>> rows =
      ParseTrainingRows(data, base.model, checked.job.recipe.objective.kind);
  if (!rows.ok()) return Annotate(rows.status(), command.data);
  checked.job.rows = *std::move(rows);
  if (!command.init.empty()) {
    ASSIGN_OR_RETURN(PeftAdapter init, ReadPeftFolder(files, command.init));
    checked.job.init = std::move(init.adapter);
  }
  RETURN_IF_ERROR(CheckRows(command, checked));
  return checked;
}

// Shows steps: JSON lines, or a bar on stderr.
class StepPrinter {
 public:
  explicit StepPrinter(bool json) : json_(json) {}
  void Show(const StepReport& step) {
    const double rate = step.seconds > 0 ? static_cast<double>(step.tokens) / step.seconds : 0;
    if (json_) {
      Json line{{"step", step.step},
                {"total_steps", step.total_steps},
                {"loss", step.loss},
                {"grad_norm", step.grad_norm},
                {"learning_rate", step.learning_rate},
                {"tokens", step.tokens},
                {"labelled_tokens", step.labelled_tokens},
                {"seconds", step.seconds},
                {"tokens_per_second", rate}};
      if (!step.figures.empty()) line["figures"] = step.figures;
      PrintJson(line);
    } else {
      std::string text = absl::StrFormat("loss %.4f, ", step.loss);
      for (const auto& [name, value] : step.figures) {
        absl::StrAppendFormat(&text, "%s %.4f, ", name, value);
      }
      bar_.Update("train", step.step, step.total_steps,
                  absl::StrFormat("%s%.0f tokens/s", text, rate));
    }
  }

 private:
  bool json_;
  ProgressBar bar_;
};

// Written before the adapter, so that a complete adapter always has one.
absl::Status WriteSummary(const std::string& work_dir, const TrainedAdapter& trained) {
  int64_t tokens = 0;
  double seconds = 0;
  for (const StepReport& step : trained.history) {
    tokens += step.tokens;
    seconds += step.seconds;
  }
  const int64_t steps = static_cast<int64_t>(trained.history.size());
  return PosixFileSystem().WriteFileAtomic(
      JoinPath(work_dir, "summary.json"),
      CanonicalJson(Json{{"trained_tokens", tokens},
                         {"flops", trained.total_flops},
                         {"seconds", seconds},
                         {"steps", steps},
                         {"final_loss", steps > 0 ? trained.history.back().loss : 0.0}}));
}

std::string WorkFolder(const TrainCommand& command) { return command.out + ".work"; }

// Where the curves go. The folder inside the work folder is this run's own: what another start left
// there goes, unless the run goes on from its checkpoint.
absl::StatusOr<std::string> MetricsFolder(const TrainCommand& command,
                                          const std::string& work_dir) {
  if (!command.metrics.empty()) return command.metrics;
  FileSystem& files = PosixFileSystem();
  const std::string folder = JoinPath(work_dir, "metrics");
  const bool goes_on = command.resume && files.Exists(JoinPath(work_dir, "checkpoint.h5"));
  if (!goes_on) RETURN_IF_ERROR(files.RemoveTree(folder));
  return folder;
}

void ShowWarnings(const CheckedJob& checked) {
  for (const std::string& warning : checked.warnings) {
    std::fprintf(stderr, "evolora: warning: %s\n", warning.c_str());
  }
}

absl::Status DryRun(const GlobalOptions& global, const TrainCommand& command) {
  RETURN_IF_ERROR(InitTorch(NumThreads(global)));
  ASSIGN_OR_RETURN(const CheckedJob checked, BuildJob(global, command));
  ShowWarnings(checked);
  return ShowDryRun(global, checked.job, command.device, checked.warnings, command.gflops);
}

const char* Environment(const char* name) { return std::getenv(name); }

// A rank beside the first: computes its share and writes nothing.
absl::Status TrainAsHelper(const GlobalOptions& global, const TrainCommand& command,
                           const ProcessGroupOptions& ranks) {
  ASSIGN_OR_RETURN(const CheckedJob checked, BuildJob(global, command));
  ASSIGN_OR_RETURN(const std::unique_ptr<ProcessGroup> group, JoinProcessGroup(ranks));
  const TrainOptions options{.device = command.device,
                             .work_dir = WorkFolder(command),
                             .resume = command.resume,
                             .group = group.get()};
  const Interrupt interrupt;
  return TrainLora(checked.job, options, PosixFileSystem(), SystemClock(), interrupt.token())
      .status();
}

absl::Status Train(const GlobalOptions& global, const TrainCommand& command) {
  RETURN_IF_ERROR(CheckTrainingDevice(command.device));
  FileSystem& files = PosixFileSystem();
  if (files.Exists(command.out)) {
    return absl::FailedPreconditionError(absl::StrCat(command.out, " exists already"));
  }
  RETURN_IF_ERROR(InitTorch(NumThreads(global)));
  ASSIGN_OR_RETURN(const ProcessGroupOptions ranks,
                   ProcessGroupOptionsFromEnvironment(&Environment));
  if (ranks.rank > 0) return TrainAsHelper(global, command, ranks);
  const std::string work_dir = WorkFolder(command);
  RETURN_IF_ERROR(files.CreateDirectories(work_dir));
  ASSIGN_OR_RETURN(const WorkFolderLock lock, WorkFolderLock::Take(work_dir));
  ASSIGN_OR_RETURN(const CheckedJob checked, BuildJob(global, command));
  ShowWarnings(checked);
  ASSIGN_OR_RETURN(const std::string metrics_dir, MetricsFolder(command, work_dir));
  std::unique_ptr<ProcessGroup> group;
  if (ranks.size > 1) {
    ASSIGN_OR_RETURN(group, JoinProcessGroup(ranks));
  }
  StepPrinter printer(global.json);
  const TrainOptions options{.device = command.device,
                             .work_dir = work_dir,
                             .resume = command.resume,
                             .metrics_dir = metrics_dir,
                             .on_step = [&](const StepReport& step) { printer.Show(step); },
                             .group = group.get()};
  const Interrupt interrupt;
  ASSIGN_OR_RETURN(const TrainedAdapter trained,
                   TrainLora(checked.job, options, files, SystemClock(), interrupt.token()));
  RETURN_IF_ERROR(WriteSummary(work_dir, trained));
  RETURN_IF_ERROR(WritePeftFolder(files, command.out, trained.adapter));
  for (const std::string& warning : ServeabilityWarnings(trained.adapter)) {
    std::fprintf(stderr, "evolora: %s: %s\n", command.out.c_str(), warning.c_str());
  }
  if (!global.json) {
    std::printf("adapter %s: %zu steps, final loss %.4f, digest %s\n", command.out.c_str(),
                trained.history.size(), trained.history.back().loss,
                AdapterDigest(trained.adapter).substr(0, 12).c_str());
  }
  return absl::OkStatus();
}

}  // namespace

void AddTrainCommand(CLI::App& app, GlobalOptions& global) {
  auto options = std::make_shared<TrainCommand>();
  CLI::App* command = app.add_subcommand("train", "train one LoRA adapter");
  command->add_option("--base", options->base, "base model of this home")->required();
  command
      ->add_option("--data", options->data,
                   "JSON lines; what a row holds depends on the recipe's objective")
      ->required();
  command->add_option("--recipe", options->recipe, "JSON file of the recipe")->required();
  command->add_option("--out", options->out,
                      "PEFT folder to write; its work folder is OUT.work (not with --dry-run)");
  command->add_option("--init", options->init, "PEFT folder to start from");
  command->add_option("--protect", options->protect,
                      "JSON lines {text}: refuse to train on these or their near-duplicates");
  command->add_option("--device", options->device, "cpu (default), cuda or cuda:N");
  command->add_option(
      "--metrics", options->metrics,
      "folder for metrics.h5 and TensorBoard event files of this run alone; default "
      "OUT.work/metrics");
  command->add_flag("--resume", options->resume, "go on from the checkpoint in OUT.work");
  CLI::Option* dry_run = command->add_flag(
      "--dry-run", options->dry_run,
      "check the data and show steps, tokens, memory, FLOPs and time; train and write nothing");
  command->add_option("--gflops", options->gflops, "rate for the time of --dry-run; 0 = measure")
      ->check(CLI::Range(0.0, 1e9))
      ->needs(dry_run);
  command->callback([&global, options] {
    if (options->dry_run) return FinishCommand(DryRun(global, *options));
    if (options->out.empty()) throw CLI::RequiredError("--out");
    FinishCommand(Train(global, *options));
  });
}

}  // namespace evolora::cli
