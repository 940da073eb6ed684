#include "side_by_side.h"

#include <memory>
#include <numeric>
#include <stdexcept>
#include <vector>

#include "ATen/Parallel.h"
#include "gmock/gmock.h"
#include "support/status_matchers.h"
#include "trainers/gradient_case.h"

namespace evolora {
namespace {

using ::evolora::testing::Case;
using ::evolora::testing::Compute;
using ::evolora::testing::Gradient;
using ::evolora::testing::MakeCase;
using ::evolora::testing::RandomRow;
using ::testing::ElementsAre;
using ::testing::SizeIs;

// `count` rows of which `length` tokens are computed, with nothing in common but `shared` tokens.
std::vector<TrainingRow> Rows(int64_t count, int64_t length, int64_t shared = 0) {
  std::vector<TrainingRow> rows;
  for (int64_t i = 0; i < count; ++i) {
    std::vector<TokenId> ids(static_cast<size_t>(length + 1), 7);
    if (shared < length) ids[static_cast<size_t>(shared)] = static_cast<TokenId>(100 + i);
    rows.push_back({.ids = ids, .labels = ids});
  }
  return rows;
}

std::vector<std::vector<int64_t>> Cut(const std::vector<TrainingRow>& rows, bool side_by_side,
                                      int64_t limit = 1024) {
  std::vector<int64_t> all(rows.size());
  std::iota(all.begin(), all.end(), 0);
  LoraRecipe recipe;
  recipe.tokens_per_micro_batch = limit;
  return FastMicroBatches(rows, all, recipe, side_by_side, 1);
}

TEST(FastMicroBatches, SideBySideAreEvenPieces) {
  EXPECT_THAT(Cut(Rows(8, 127), false), ElementsAre(SizeIs(8)));
  EXPECT_THAT(Cut(Rows(8, 127), true), ElementsAre(SizeIs(2), SizeIs(2), SizeIs(2), SizeIs(2)));
  EXPECT_THAT(Cut(Rows(8, 38), true), ElementsAre(SizeIs(4), SizeIs(4)));
  EXPECT_THAT(Cut(Rows(3, 300), true), ElementsAre(SizeIs(1), SizeIs(1), SizeIs(1)));
}

TEST(FastMicroBatches, AreNoLargerThanTheRecipeAllows) {
  EXPECT_THAT(Cut(Rows(4, 100), true, 100),
              ElementsAre(SizeIs(1), SizeIs(1), SizeIs(1), SizeIs(1)));
}

TEST(FastMicroBatches, AShortStepAndASharedPrefixStayInOnePiece) {
  EXPECT_THAT(Cut(Rows(6, 10), true), ElementsAre(SizeIs(6)));
  EXPECT_THAT(Cut(Rows(8, 100, 60), true), ElementsAre(SizeIs(8)));
  EXPECT_THAT(Cut(Rows(8, 60, 1), true), ElementsAre(SizeIs(4), SizeIs(4)));
}

TEST(RunsSideBySide, IsForAdaptersOfSmallBasesAndLossesThatAllowIt) {
  const std::vector<TrainingRow> rows = Rows(2, 4);
  const auto loss = MakeCrossEntropy(rows);
  const LlamaConfig small = testing::SmallConfig();
  const LoraRecipe recipe;
  EXPECT_TRUE(RunsSideBySide(small, recipe, *loss));
  LlamaConfig wide = small;
  wide.intermediate_size = 1 << 18;
  EXPECT_FALSE(RunsSideBySide(wide, recipe, *loss));
  LoraRecipe whole = recipe;
  whole.modules_to_save = {"lm_head"};
  EXPECT_FALSE(RunsSideBySide(small, whole, *loss));
  LoraRecipe full = recipe;
  full.method = TrainingMethod::kFull;
  EXPECT_FALSE(RunsSideBySide(small, full, *loss));
  ObjectiveSettings policy;
  policy.kind = ObjectiveKind::kPolicy;
  std::vector<TrainingRow> samples = rows;
  for (TrainingRow& row : samples) {
    row.sample.advantage = 1;
    row.sample.old_log_probs.assign(4, -1.0f);
  }
  ASSERT_OK_AND_ASSIGN(const auto tied, MakePolicy(policy, samples));
  EXPECT_FALSE(RunsSideBySide(small, recipe, *tied));
}

// Enough tokens for seven micro-batches.
Case LongStep(const testing::CaseChange& change = [](Case&) {}) {
  return MakeCase("long step", [&](Case& c) {
    c.rows.clear();
    for (uint64_t i = 0; i < 24; ++i) {
      c.rows.push_back(RandomRow(c.config, 20 + static_cast<int64_t>(i) * 5, i));
    }
    change(c);
  });
}

class SideBySideTest : public ::testing::Test {
 protected:
  ~SideBySideTest() override { at::set_num_threads(threads_); }
  const int threads_ = at::get_num_threads();
};

TEST_F(SideBySideTest, TheBitsDoNotDependOnTheNumberOfThreads) {
  const Case cases[] = {LongStep(), LongStep([](Case& c) { c.recipe.lora_dropout = 0.2; }),
                        LongStep([](Case& c) { c.recipe.use_dora = true; }), LongStep([](Case& c) {
                          c.recipe.precision = TrainingPrecision::kBf16Autocast;
                        })};
  for (const Case& c : cases) {
    at::set_num_threads(1);
    const Gradient alone = Compute(c, MakeFastPath);
    for (const int threads : {2, 3, 4}) {
      SCOPED_TRACE(threads);
      at::set_num_threads(threads);
      const Gradient actual = Compute(c, MakeFastPath);
      EXPECT_EQ(actual.loss_sum, alone.loss_sum);
      EXPECT_TRUE(actual.parameters.gradient.equal(alone.parameters.gradient));
    }
  }
}

TEST_F(SideBySideTest, EqualsAutograd) {
  at::set_num_threads(2);
  testing::ExpectFastEqualsReference(LongStep());
  testing::ExpectFastEqualsReference(LongStep([](Case& c) { c.recipe.use_dora = true; }));
}

// Cross entropy that fails at the micro-batch with some row.
class FailingLoss : public Loss {
 public:
  FailingLoss(absl::Span<const TrainingRow> rows, int64_t row)
      : inner_(MakeCrossEntropy(rows)), row_(row) {}
  absl::Span<const TrainingRow> sequences() const override { return inner_->sequences(); }
  double StepWeight(absl::Span<const int64_t> rows) const override {
    return inner_->StepWeight(rows);
  }
  bool takes_batches_at_once() const override { return true; }
  double LossAndGradient(const LogitsChunk& chunk, double factor) override {
    for (const TokenLayout::Label& label : chunk.labels) {
      if (label.sequence == row_) throw std::runtime_error("failed on purpose");
    }
    return inner_->LossAndGradient(chunk, factor);
  }

 private:
  const std::unique_ptr<Loss> inner_;
  const int64_t row_;
};

TEST_F(SideBySideTest, AFailureEndsTheStepAndHangsNoThread) {
  const Case c = LongStep();
  const LlamaWeights weights = *testing::RandomWeights(c.config, 3);
  for (const int threads : {1, 2, 4}) {
    at::set_num_threads(threads);
    for (const int64_t row : {0, 11, 23}) {
      ASSERT_OK_AND_ASSIGN(const AdapterParameters parameters,
                           AdapterParameters::Create(weights, c.recipe, nullptr));
      FailingLoss loss(c.rows, row);
      const auto path = MakeFastPath({.base = &weights,
                                      .lora = &parameters.lora(),
                                      .recipe = &c.recipe,
                                      .rows = c.rows,
                                      .loss = &loss});
      std::vector<int64_t> all(c.rows.size());
      std::iota(all.begin(), all.end(), 0);
      EXPECT_THROW(path->AddGradient(all, 1).IgnoreError(), std::runtime_error);
    }
  }
}

}  // namespace
}  // namespace evolora
