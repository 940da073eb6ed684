#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "evolora/core/json.h"
#include "evolora/trainers/resident_trainer.h"

namespace evolora {

// One key of a recipe and the values that it takes, in JSON.
struct SweepAxis {
  std::string key;
  std::vector<Json> values;
};

// "learning_rate=1e-4,3e-4" or "target_modules=[\"q_proj\"],[\"q_proj\",\"v_proj\"]": values are
// JSON; what is none is taken as a string ("schedule=linear,cosine"). InvalidArgument quotes it.
absl::StatusOr<SweepAxis> ParseSweepAxis(absl::string_view text);

// One recipe of a sweep.
struct SweepPoint {
  std::string name;  // "learning_rate=3e-04,rank=8": may name a folder
  LoraRecipe recipe;
};
// Every combination of the axes' values on top of `recipe` (JSON of a recipe), the last axis
// fastest. InvalidArgument: no axis, a key twice, a value twice, more than 256 points, a name of
// more than 200 characters, or a recipe that is none.
absl::StatusOr<std::vector<SweepPoint>> SweepPoints(const Json& recipe,
                                                    absl::Span<const SweepAxis> axes);

// Takes about `share` of the rows that are not replay out of `rows`: a pure function of rows and
// seed. Rows with the same ids stay together. At least one row on each side: InvalidArgument when
// there are not two different rows.
absl::StatusOr<std::vector<TrainingRow>> TakeHeldOut(std::vector<TrainingRow>& rows, double share,
                                                     uint64_t seed);

struct SweepOptions {
  std::vector<TrainingRow> held_out;
  int64_t num_rungs = 3;  // times that trials are compared, the end included
  double keep = 0.5;      // share that goes on from each rung but the last, at least one
  ResidentLimits limits;
  std::string device = "cpu";  // these two as in TrainOptions; no part of a sweep's identity
  bool device_graphs = true;
  std::string folder;   // holds sweep.json and each trial's work folder, named as the trial
  bool resume = false;  // go on from what `folder` holds
  // A trial's step; may be empty.
  std::function<void(const std::string& trial, const StepReport& step)> on_step;
};

struct SweepTrial {
  std::string name;
  TrainingJob job;
};

// How one trial went.
struct TrialReport {
  std::string name;
  std::vector<double> held_out_losses;  // at each rung that it reached
  int64_t steps = 0;                    // taken
  int64_t total_steps = 0;
  absl::Status status;  // why it failed; OK: it did not
};
struct SweepReport {
  std::vector<TrialReport> trials;  // as given
  int64_t best = 0;                 // index of the trial with the least held-out loss at the end
  TrainedAdapter adapter;           // its adapter
};

// Trains all trials at once and stops the weak ones early: successive halving (Jamieson and
// Talwalkar 2016). Rung k of K = num_rungs lies at ceil(T keep^(K-1-k)) of a trial's own T steps.
// At each rung but the last the ceil(keep n) trials of n with the least held-out loss go on, of
// equal ones the earlier in the list; a failed trial goes out first. Learning-rate schedules span
// all T steps, so that an early rung is not the end of a short schedule.
//
// Exact:  the same trials give the same report and bytes, however they share steps, resumed or not.
// Writes: below options.folder: sweep.json after each rung (the losses), each trial's checkpoint
//         and metrics.
// Errors: InvalidArgument    options, no trial, two of one name, an objective but sft, held-out
//                            rows that fail the lint
//         FailedPrecondition `folder` holds another sweep, or one and resume is off
//         Aborted            every trial failed; names the first failure
//         Cancelled          `stop` was requested
//         and those of ResidentTrainer
absl::StatusOr<SweepReport> RunSweep(const std::vector<SweepTrial>& trials,
                                     const SweepOptions& options, FileSystem& fs,
                                     const Clock& clock, std::stop_token stop);

}  // namespace evolora
