#include "row_order.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "evolora/core/random.h"
#include "evolora/trainers/lora_trainer.h"

namespace evolora {
namespace {

std::vector<int64_t> Shuffled(std::vector<int64_t> items, uint64_t seed) {
  std::vector<int64_t> out(items.size());
  const std::vector<int64_t> order = Random(seed).Permutation(static_cast<int64_t>(items.size()));
  for (size_t i = 0; i < items.size(); ++i) out[i] = items[static_cast<size_t>(order[i])];
  return out;
}

}  // namespace

int64_t NumReplayPerEpoch(const LoraRecipe& recipe, int64_t num_task_rows,
                          int64_t num_replay_rows) {
  if (num_replay_rows == 0 || num_task_rows == 0) return num_replay_rows;
  const double share = recipe.replay_share;
  return static_cast<int64_t>(
      std::llround(share / (1.0 - share) * static_cast<double>(num_task_rows)));
}

std::vector<int64_t> EpochOrder(const LoraRecipe& recipe, absl::Span<const TrainingRow> rows,
                                int64_t epoch) {
  std::vector<int64_t> order;
  std::vector<int64_t> pool;
  for (size_t i = 0; i < rows.size(); ++i) {
    (rows[i].replay ? pool : order).push_back(static_cast<int64_t>(i));
  }
  const int64_t pool_size = static_cast<int64_t>(pool.size());
  const int64_t num_replay =
      NumReplayPerEpoch(recipe, static_cast<int64_t>(order.size()), pool_size);
  pool = Shuffled(std::move(pool), DeriveSeed(recipe.seed, "replay"));
  for (int64_t i = 0; i < num_replay; ++i) {
    order.push_back(pool[static_cast<size_t>((epoch * num_replay + i) % pool_size)]);
  }
  return Shuffled(std::move(order), DeriveSeed(recipe.seed, absl::StrCat("epoch", epoch)));
}

StepOrder::StepOrder(const LoraRecipe& recipe, absl::Span<const TrainingRow> rows)
    : recipe_(recipe), rows_(rows) {
  const int64_t num_replay =
      std::count_if(rows.begin(), rows.end(), [](const TrainingRow& row) { return row.replay; });
  const int64_t num_task = static_cast<int64_t>(rows.size()) - num_replay;
  const int64_t per_epoch = num_task + NumReplayPerEpoch(recipe, num_task, num_replay);
  steps_per_epoch_ = (per_epoch + recipe.rows_per_step - 1) / recipe.rows_per_step;
  total_steps_ = TotalSteps(recipe, num_task, num_replay);
}

std::vector<int64_t> StepOrder::RowsOf(int64_t step) {
  if (step / steps_per_epoch_ != epoch_) {
    epoch_ = step / steps_per_epoch_;
    order_ = EpochOrder(recipe_, rows_, epoch_);
  }
  const int64_t begin = step % steps_per_epoch_ * recipe_.rows_per_step;
  const int64_t end = std::min(begin + recipe_.rows_per_step, static_cast<int64_t>(order_.size()));
  return {order_.begin() + begin, order_.begin() + end};
}

int64_t TotalSteps(const LoraRecipe& recipe, int64_t num_rows, int64_t num_replay_rows) {
  const int64_t per_epoch = num_rows + NumReplayPerEpoch(recipe, num_rows, num_replay_rows);
  const int64_t steps_per_epoch = (per_epoch + recipe.rows_per_step - 1) / recipe.rows_per_step;
  const int64_t steps = steps_per_epoch * recipe.epochs;
  return recipe.max_steps > 0 ? std::min(recipe.max_steps, steps) : steps;
}

std::vector<std::vector<int64_t>> MicroBatches(absl::Span<const TrainingRow> rows,
                                               absl::Span<const int64_t> step_rows,
                                               int64_t max_padded_tokens, int64_t group_size) {
  const auto length = [&](int64_t group) {
    size_t longest = 0;
    for (int64_t i = group * group_size; i < (group + 1) * group_size; ++i) {
      longest = std::max(longest, rows[static_cast<size_t>(i)].ids.size());
    }
    return longest;
  };
  std::vector<int64_t> sorted(step_rows.begin(), step_rows.end());
  std::stable_sort(sorted.begin(), sorted.end(),
                   [&](int64_t x, int64_t y) { return length(x) > length(y); });
  std::vector<std::vector<int64_t>> batches;
  size_t longest = 0;  // of the last batch
  for (const int64_t group : sorted) {
    const auto size_with = [&] { return batches.back().size() + static_cast<size_t>(group_size); };
    const bool fits =
        !batches.empty() && static_cast<int64_t>(size_with() * longest) <= max_padded_tokens;
    if (!fits) {
      batches.emplace_back();
      longest = length(group);
    }
    for (int64_t i = 0; i < group_size; ++i) batches.back().push_back(group * group_size + i);
  }
  return batches;
}

}  // namespace evolora
