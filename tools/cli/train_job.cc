#include "train_job.h"

#include <cstdio>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "evolora/adapters/peft.h"
#include "evolora/core/status_macros.h"
#include "evolora/trainers/data_lint.h"
#include "evolora/trainers/leak_check.h"

namespace evolora::cli {
namespace {

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

// Lints the rows, holds them against the protected texts, and cuts what may be cut.
absl::Status CheckRows(const JobFiles& files, CheckedJob& checked) {
  TrainingJob& job = checked.job;
  const LintLimits limits = LimitsOf(job);
  absl::Status lint = LintTrainingRows(job.rows, limits);
  if (!lint.ok()) return Annotate(lint, files.data);
  checked.warnings = TrainingRowWarnings(job.rows, limits);
  ASSIGN_OR_RETURN(const std::vector<std::string> guarded, ReadProtected(files.protect));
  RETURN_IF_ERROR(Annotate(CheckRowsLeakNothing(job.rows, guarded), files.data));
  const int64_t unchecked = CountRowsWithoutText(job.rows);
  if (!guarded.empty() && unchecked > 0) {
    checked.warnings.push_back(
        absl::StrCat(unchecked, " rows have no text and were not compared with ", files.protect));
  }
  CutLongRows(job.rows, limits);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<LoraRecipe> ReadRecipe(const JobFiles& files) {
  ASSIGN_OR_RETURN(const std::string text, PosixFileSystem().ReadFile(files.recipe, 1 << 20));
  absl::StatusOr<LoraRecipe> recipe = ParseRecipe(text);
  if (!recipe.ok()) return Annotate(recipe.status(), files.recipe);
  return recipe;
}

absl::StatusOr<CheckedJob> BuildJob(const LoadedBase& base, const JobFiles& files) {
  ASSIGN_OR_RETURN(const LoraRecipe recipe, ReadRecipe(files));
  return BuildJob(base, files, recipe);
}

static void WarnOfRecipe(const LoraRecipe& recipe, std::vector<std::string>& warnings) {
  if (recipe.precision != TrainingPrecision::kFp32 && recipe.path != TrainingPath::kDevice) {
    const absl::string_view units = Bf16Units();
    warnings.push_back(absl::StrCat("recipe.precision: this CPU computes bf16 by ", units,
                                    units == "emulation" ? ", slower than fp32" : ""));
  }
  if (!recipe.modules_to_save.empty()) {
    warnings.push_back(
        "recipe.modules_to_save: vLLM and llama.cpp will refuse the adapter; evolora and "
        "transformers + PEFT run it");
  }
}

absl::StatusOr<CheckedJob> BuildJob(const LoadedBase& base, const JobFiles& files,
                                    const LoraRecipe& recipe) {
  const bool adapts = recipe.method == TrainingMethod::kLora;
  if (adapts && GreatestRank(recipe) > kMaxWrittenRank) {
    return absl::InvalidArgumentError(
        absl::StrCat(files.recipe, ": would give an adapter of rank ", GreatestRank(recipe),
                     "; PEFT folders are written up to ", kMaxWrittenRank));
  }
  ASSIGN_OR_RETURN(const std::string data,
                   PosixFileSystem().ReadFile(files.data, uint64_t{8} << 30));
  CheckedJob checked{.job = {.base = base.model.weights,
                             .base_name = base.stored.name,
                             .base_weights_fingerprint = base.stored.weights_fingerprint,
                             .recipe = recipe,
                             .end_ids = EndOfTurnIds(base.model)}};
  absl::StatusOr<std::vector<TrainingRow>> rows =
      ParseTrainingRows(data, base.model, recipe.objective.kind);
  if (!rows.ok()) return Annotate(rows.status(), files.data);
  checked.job.rows = *std::move(rows);
  if (!files.init.empty()) {
    ASSIGN_OR_RETURN(PeftAdapter init, ReadPeftFolder(PosixFileSystem(), files.init));
    checked.job.init = std::move(init.adapter);
  }
  RETURN_IF_ERROR(CheckRows(files, checked));
  WarnOfRecipe(recipe, checked.warnings);
  return checked;
}

void ShowWarnings(const CheckedJob& checked) {
  for (const std::string& warning : checked.warnings) {
    std::fprintf(stderr, "evolora: warning: %s\n", warning.c_str());
  }
}

std::string WorkFolder(const JobFiles& files) { return files.out + ".work"; }

absl::StatusOr<std::string> MetricsFolder(const JobFiles& files, bool resume) {
  if (!files.metrics.empty()) return files.metrics;
  FileSystem& fs = PosixFileSystem();
  const std::string work_dir = WorkFolder(files);
  const std::string folder = JoinPath(work_dir, "metrics");
  const bool goes_on = resume && fs.Exists(JoinPath(work_dir, "checkpoint.h5"));
  if (!goes_on) RETURN_IF_ERROR(fs.RemoveTree(folder));
  return folder;
}

absl::Status WriteSummary(const std::string& work_dir, const std::vector<StepReport>& history,
                          double flops) {
  int64_t tokens = 0;
  double seconds = 0;
  for (const StepReport& step : history) {
    tokens += step.tokens;
    seconds += step.seconds;
  }
  const int64_t steps = static_cast<int64_t>(history.size());
  return PosixFileSystem().WriteFileAtomic(
      JoinPath(work_dir, "summary.json"),
      CanonicalJson(Json{{"trained_tokens", tokens},
                         {"flops", flops},
                         {"seconds", seconds},
                         {"steps", steps},
                         {"final_loss", steps > 0 ? history.back().loss : 0.0}}));
}

absl::Status WriteResult(const JobFiles& files, const TrainedAdapter& trained) {
  RETURN_IF_ERROR(WriteSummary(WorkFolder(files), trained.history, trained.total_flops));
  RETURN_IF_ERROR(WritePeftFolder(PosixFileSystem(), files.out, trained.adapter));
  for (const std::string& warning : ServeabilityWarnings(trained.adapter)) {
    std::fprintf(stderr, "evolora: %s: %s\n", files.out.c_str(), warning.c_str());
  }
  return absl::OkStatus();
}

Json StepJson(const StepReport& step) {
  Json line{{"step", step.step},
            {"total_steps", step.total_steps},
            {"loss", step.loss},
            {"grad_norm", step.grad_norm},
            {"learning_rate", step.learning_rate},
            {"tokens", step.tokens},
            {"labelled_tokens", step.labelled_tokens},
            {"seconds", step.seconds},
            {"tokens_per_second",
             step.seconds > 0 ? static_cast<double>(step.tokens) / step.seconds : 0.0}};
  if (!step.figures.empty()) line["figures"] = step.figures;
  return line;
}

}  // namespace evolora::cli
