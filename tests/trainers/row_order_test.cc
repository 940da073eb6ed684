#include "row_order.h"

#include <algorithm>
#include <set>
#include <vector>

#include "gtest/gtest.h"

namespace evolora {
namespace {

std::vector<TrainingRow> Rows(int num_task, int num_replay) {
  std::vector<TrainingRow> rows(static_cast<size_t>(num_task + num_replay));
  for (size_t i = 0; i < rows.size(); ++i) {
    rows[i].ids.assign(i % 7 + 2, 1);
    rows[i].replay = static_cast<int>(i) >= num_task;
  }
  return rows;
}

TEST(EpochOrder, HoldsEveryTaskRowOnceAndTheShareOfReplayRows) {
  LoraRecipe recipe;
  recipe.replay_share = 0.25;
  const std::vector<TrainingRow> rows = Rows(30, 6);
  const std::vector<int64_t> order = EpochOrder(recipe, rows, 0);
  ASSERT_EQ(order.size(), 40u);  // 10 of 40 are replay
  for (int64_t i = 0; i < 30; ++i) EXPECT_EQ(std::count(order.begin(), order.end(), i), 1);
  EXPECT_EQ(std::count_if(order.begin(), order.end(), [](int64_t i) { return i >= 30; }), 10);
}

TEST(EpochOrder, ReplayPoolGoesOnFromEpochToEpoch) {
  LoraRecipe recipe;
  recipe.replay_share = 0.2;  // 2 replay rows beside 8
  const std::vector<TrainingRow> rows = Rows(8, 6);
  std::multiset<int64_t> used;
  for (int64_t epoch = 0; epoch < 3; ++epoch) {
    for (const int64_t i : EpochOrder(recipe, rows, epoch)) {
      if (i >= 8) used.insert(i);
    }
  }
  for (int64_t i = 8; i < 14; ++i) EXPECT_EQ(used.count(i), 1u) << i;
}

TEST(EpochOrder, DependsOnSeedAndEpochOnly) {
  LoraRecipe recipe;
  const std::vector<TrainingRow> rows = Rows(40, 0);
  EXPECT_EQ(EpochOrder(recipe, rows, 1), EpochOrder(recipe, rows, 1));
  EXPECT_NE(EpochOrder(recipe, rows, 1), EpochOrder(recipe, rows, 2));
  LoraRecipe other = recipe;
  other.seed = 1;
  EXPECT_NE(EpochOrder(recipe, rows, 1), EpochOrder(other, rows, 1));
}

TEST(MicroBatches, KeepToThePaddedBudgetAndLoseNoRow) {
  const std::vector<TrainingRow> rows = Rows(25, 0);
  std::vector<int64_t> step(25);
  for (size_t i = 0; i < step.size(); ++i) step[i] = static_cast<int64_t>(i);
  std::vector<int64_t> seen;
  for (const std::vector<int64_t>& batch : MicroBatches(rows, step, 20)) {
    size_t longest = 0;
    for (const int64_t i : batch)
      longest = std::max(longest, rows[static_cast<size_t>(i)].ids.size());
    EXPECT_LE(longest * batch.size(), 20u);
    seen.insert(seen.end(), batch.begin(), batch.end());
  }
  std::sort(seen.begin(), seen.end());
  EXPECT_EQ(seen, step);
}

TEST(MicroBatches, ARowOverTheBudgetIsABatchOfItsOwn) {
  const std::vector<TrainingRow> rows = Rows(3, 0);
  const std::vector<int64_t> step = {0, 1, 2};
  EXPECT_EQ(MicroBatches(rows, step, 1).size(), 3u);
}

}  // namespace
}  // namespace evolora
