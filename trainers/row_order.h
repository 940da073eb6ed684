#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "evolora/trainers/recipe.h"
#include "evolora/trainers/training_data.h"

namespace evolora {

// Replay rows that go into each epoch beside `num_task_rows` so that they make up `replay_share` of
// it.
int64_t NumReplayPerEpoch(const LoraRecipe& recipe, int64_t num_task_rows, int64_t num_replay_rows);

// Row indices of one epoch in training order: every task row once, replay rows taken in turn from
// their own shuffled pool (which goes on from epoch to epoch), all shuffled together.
// A pure function of the recipe's seed, the epoch and the replay marks.
std::vector<int64_t> EpochOrder(const LoraRecipe& recipe, absl::Span<const TrainingRow> rows,
                                int64_t epoch);

// Which rows each optimiser step takes. A run and a plan of it read the same one.
class StepOrder {
 public:
  // Both outlive the object.
  StepOrder(const LoraRecipe& recipe, absl::Span<const TrainingRow> rows);
  // Of the whole run, max_steps applied.
  int64_t total_steps() const { return total_steps_; }
  // Row indices of step `step`, from 0. Cheap within an epoch.
  std::vector<int64_t> RowsOf(int64_t step);

 private:
  const LoraRecipe& recipe_;
  absl::Span<const TrainingRow> rows_;
  int64_t steps_per_epoch_ = 0;
  int64_t total_steps_ = 0;
  int64_t epoch_ = -1;  // of order_
  std::vector<int64_t> order_;
};

// Cuts one optimiser step's rows into micro-batches of at most `max_padded_tokens` (rows x longest
// row), sorted by length so that little is padded. A single longer row is a batch of its own.
// With group_size G, step_rows[i] stands for the G rows from step_rows[i] * G on, which stay in one
// batch; the batches hold indices of `rows`.
std::vector<std::vector<int64_t>> MicroBatches(absl::Span<const TrainingRow> rows,
                                               absl::Span<const int64_t> step_rows,
                                               int64_t max_padded_tokens, int64_t group_size = 1);

}  // namespace evolora
