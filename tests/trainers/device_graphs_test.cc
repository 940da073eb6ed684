// Padding to shapes that come again, and what is recorded of them.
#include <algorithm>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "device/batch_shape.h"
#include "device/device_path.h"
#include "device/graph_cache.h"
#include "gtest/gtest.h"
#include "support/status_matchers.h"
#include "trainers/device_cases.h"

namespace evolora {
namespace {

using testing::Case;
using testing::DeviceGradient;
using testing::Difference;
using testing::FakeRecorder;
using testing::Gradient;
using testing::RepeatingCase;
using testing::Steps;
using testing::StepsOf;

BatchShape Shape(int64_t tokens, int64_t rows, int64_t longest_row, int64_t predicting) {
  return {.tokens = tokens,
          .rows = rows,
          .longest_row = longest_row,
          .predicting = predicting,
          .targets = predicting};
}

TEST(Bucket, FitsWhatItIsForAndWastesLittle) {
  for (int64_t tokens = 1; tokens < 3000; tokens += 7) {
    for (const int64_t rows : {1, 2, 5, 9}) {
      const BatchShape exact =
          Shape(tokens + rows, rows, tokens / rows + 1, std::max<int64_t>(1, tokens / 2));
      const BatchShape bucket = Bucket(exact, 4096);
      ASSERT_TRUE(FitsInto(exact, bucket)) << tokens << ", " << rows;
      EXPECT_LE(bucket.tokens, std::max(exact.tokens + 7, exact.tokens * 9 / 8));
      EXPECT_LE(bucket.predicting, std::max(exact.predicting + 7, exact.predicting * 9 / 8));
      // The rows of padding have room.
      EXPECT_GE((bucket.rows - exact.rows) * bucket.longest_row, bucket.tokens - exact.tokens);
      EXPECT_EQ(Bucket(exact, 4096), bucket);
    }
  }
}

TEST(Bucket, RowsOfPaddingHaveTheirKeys) {
  for (int64_t keys = 1; keys < 3000; keys += 13) {
    BatchShape exact = Shape(keys % 500 + 1, 3, 40, 9);
    exact.keys = keys;
    const BatchShape bucket = Bucket(exact, 4096);
    EXPECT_GE(bucket.keys, keys + bucket.tokens - exact.tokens);
    EXPECT_LE(bucket.keys, (keys + bucket.tokens - exact.tokens) * 5 / 4 + 15);
    exact.keys = 0;
    EXPECT_EQ(Bucket(exact, 4096).keys, 0);
  }
}

TEST(Bucket, AFullMicroBatchIsNotPaddedBeyondItsLimit) {
  for (const int64_t limit : {1000, 1001, 1024}) {
    EXPECT_EQ(Bucket(Shape(limit - 3, 4, 300, 9), limit).tokens, limit);
    EXPECT_GT(Bucket(Shape(limit + 1, 1, 300, 9), limit).tokens, limit);  // one long row
  }
}

TEST(Bucket, ManySizesBecomeFew) {
  std::set<BatchShape> shapes;
  for (int64_t tokens = 512; tokens <= 1024; ++tokens) {
    shapes.insert(Bucket(Shape(tokens, 4, 256, tokens / 2), 1024));
  }
  EXPECT_LE(shapes.size(), 40u);
}

class GraphCacheTest : public ::testing::Test {
 protected:
  // What ran for this shape: "as is", "recorded" or "replayed".
  std::string Run(const BatchShape& shape) {
    const GraphCache::Counts before = cache_.counts();
    const int64_t runs_before = runs_;
    cache_.Run(shape, [this] { ++runs_; });
    EXPECT_EQ(runs_, runs_before + 1);
    const GraphCache::Counts& after = cache_.counts();
    if (after.as_is > before.as_is) return "as is";
    return after.recorded > before.recorded ? "recorded" : "replayed";
  }

  std::shared_ptr<FakeRecorder> recorder_ = std::make_shared<FakeRecorder>();
  GraphCache cache_{recorder_, /*max_graphs=*/2};
  int64_t runs_ = 0;
};

TEST_F(GraphCacheTest, RecordsTheSecondTimeAndRepeatsFromThenOn) {
  const BatchShape shape = Shape(64, 2, 32, 16);
  EXPECT_EQ(Run(shape), "as is");
  EXPECT_EQ(Run(shape), "recorded");
  EXPECT_EQ(Run(shape), "replayed");
  EXPECT_EQ(Run(shape), "replayed");
  EXPECT_EQ(recorder_->recorded, 1);
  EXPECT_EQ(recorder_->replayed, 3);
}

TEST_F(GraphCacheTest, AShapeThatFitsIntoNoneBeforeLetsAllGraphsGo) {
  const BatchShape shape = Shape(64, 2, 32, 16), smaller = Shape(48, 2, 32, 8);
  for (const char* expected : {"as is", "recorded"}) EXPECT_EQ(Run(shape), expected);
  EXPECT_EQ(Run(smaller), "as is");
  EXPECT_EQ(recorder_->alive, 1);
  EXPECT_EQ(Run(Shape(48, 4, 16, 8)), "as is");  // less of all, but more rows
  EXPECT_EQ(recorder_->alive, 0);
  EXPECT_EQ(Run(shape), "recorded");
  // Greater than neither in each size alone, but greater than both as a whole.
  EXPECT_EQ(Run(Shape(64, 4, 32, 8)), "as is");
  EXPECT_EQ(recorder_->alive, 0);
}

TEST_F(GraphCacheTest, KeepsTheGraphsUsedLast) {
  const BatchShape a = Shape(64, 2, 32, 16), b = Shape(48, 2, 32, 8), c = Shape(40, 2, 32, 8);
  for (const BatchShape& shape : {a, b, c}) EXPECT_EQ(Run(shape), "as is");
  EXPECT_EQ(Run(a), "recorded");
  EXPECT_EQ(Run(b), "recorded");
  EXPECT_EQ(Run(a), "replayed");
  EXPECT_EQ(Run(c), "recorded");  // in b's place
  EXPECT_EQ(recorder_->alive, 2);
  EXPECT_EQ(Run(a), "replayed");
  EXPECT_EQ(Run(b), "recorded");
}

TEST_F(GraphCacheTest, ForgetsWhenAsked) {
  const BatchShape shape = Shape(64, 2, 32, 16);
  for (const char* expected : {"as is", "recorded"}) EXPECT_EQ(Run(shape), expected);
  cache_.Forget();
  EXPECT_EQ(recorder_->alive, 0);
  EXPECT_EQ(Run(shape), "as is");
}

TEST(DeviceGraphs, PaddingContributesNothing) {
  for (Case& c : testing::FewCases()) {
    for (const bool dora : {false, true}) {
      c.recipe.use_dora = dora;
      c.recipe.lora_dropout = dora ? 0 : 0.3;
      const Gradient exact = DeviceGradient(c, {}), padded = DeviceGradient(c, {.graphs = true});
      EXPECT_EQ(Difference(padded, exact, 1e-5), "") << c.name;
    }
  }
}

TEST(DeviceGraphs, AReplayTakesTheNewTokensFactorStepAndValues) {
  for (const bool dora : {false, true}) {
    const Case c = RepeatingCase(dora);
    const auto recorder = std::make_shared<FakeRecorder>();
    // A row that stands in a step twice would share itself: another shape.
    const Steps replayed =
        StepsOf(c, {.graphs = true, .share_prefixes = false, .recorder = recorder});
    EXPECT_EQ(recorder->recorded, 1);
    EXPECT_EQ(recorder->replayed, 5);
    const Steps padded = StepsOf(c, {.graphs = true, .share_prefixes = false});
    const Steps exact = StepsOf(c, {});
    EXPECT_EQ(replayed.losses, padded.losses);
    for (size_t i = 0; i < exact.losses.size(); ++i) {
      EXPECT_TRUE(replayed.gradients[i].equal(padded.gradients[i])) << "step " << i;
      EXPECT_NEAR(replayed.losses[i] / exact.losses[i], 1, 1e-5);
      EXPECT_LT(replayed.gradients[i].sub(exact.gradients[i]).norm().item<double>(),
                1e-5 * exact.gradients[i].norm().item<double>());
    }
    EXPECT_EQ(recorder->alive, 0);
  }
}

TEST(DeviceGraphs, AReplayTakesWhatTheLabelsOfAnObjectiveNeed) {
  for (const Case& c : testing::ObjectiveCases()) {
    const auto recorder = std::make_shared<FakeRecorder>();
    const Steps replayed = StepsOf(c, {.graphs = true, .recorder = recorder});
    EXPECT_GT(recorder->replayed, 2) << c.name;
    const Steps padded = StepsOf(c, {.graphs = true}), exact = StepsOf(c, {});
    EXPECT_EQ(replayed.losses, padded.losses) << c.name;
    for (size_t i = 0; i < exact.losses.size(); ++i) {
      EXPECT_TRUE(replayed.gradients[i].equal(padded.gradients[i])) << c.name << ", step " << i;
      EXPECT_LT(replayed.gradients[i].sub(exact.gradients[i]).norm().item<double>(),
                1e-5 * exact.gradients[i].norm().item<double>())
          << c.name << ", step " << i;
    }
  }
}

}  // namespace
}  // namespace evolora
