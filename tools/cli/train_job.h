#pragma once

#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "evolora/pipeline/base_store.h"
#include "evolora/trainers/lora_trainer.h"
#include "output.h"

namespace evolora::cli {

// What one adapter, or a base as a whole, is trained from, and where it goes.
struct JobFiles {
  std::string data;     // JSON lines
  std::string recipe;   // JSON
  std::string out;      // folder to write: PEFT's, or a base's
  std::string init;     // PEFT folder to start from; may be empty
  std::string protect;  // JSON lines {text} that the rows may not repeat; may be empty
  std::string metrics;  // folder; empty: inside the work folder
};

// A job that passed the lint, and what is odd about its rows.
struct CheckedJob {
  TrainingJob job;
  std::vector<std::string> warnings;
};

// Errors name the file.
absl::StatusOr<LoraRecipe> ReadRecipe(const JobFiles& files);

// Reads recipe and rows, lints them, holds them against the protected texts and cuts what may be
// cut. Errors name the file.
absl::StatusOr<CheckedJob> BuildJob(const LoadedBase& base, const JobFiles& files);
// The same with a recipe that is read already; `files.recipe` for messages.
absl::StatusOr<CheckedJob> BuildJob(const LoadedBase& base, const JobFiles& files,
                                    const LoraRecipe& recipe);

void ShowWarnings(const CheckedJob& checked);

std::string WorkFolder(const JobFiles& files);  // OUT.work

// Where the curves go. The folder inside the work folder is this run's own: what another start left
// there goes, unless the run goes on from its checkpoint.
absl::StatusOr<std::string> MetricsFolder(const JobFiles& files, bool resume);

// summary.json of the whole run.
absl::Status WriteSummary(const std::string& work_dir, const std::vector<StepReport>& history,
                          double flops);

// Writes the summary, then the adapter, so that a complete adapter always has one; says what a
// server will not take.
absl::Status WriteResult(const JobFiles& files, const TrainedAdapter& trained);

// One step as a JSON line's object.
Json StepJson(const StepReport& step);

}  // namespace evolora::cli
