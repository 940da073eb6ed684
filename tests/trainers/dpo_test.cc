#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "ATen/ATen.h"
#include "fast_head.h"
#include "trainers/gradient_case.h"
#include "trainers/loss_case.h"

namespace evolora {
namespace {

using ::evolora::testing::AllRows;
using ::evolora::testing::Case;
using ::evolora::testing::Compute;
using ::evolora::testing::ExpectFastEqualsReference;
using ::evolora::testing::ExpectSame;
using ::evolora::testing::FixedLogits;
using ::evolora::testing::Gradient;
using ::evolora::testing::IsOk;
using ::evolora::testing::LossCase;
using ::evolora::testing::MakeCase;
using ::evolora::testing::RandomIds;
using ::evolora::testing::RandomRow;
using ::evolora::testing::StatusIs;
using ::testing::HasSubstr;

constexpr TokenId kNone = kIgnoreLabel;

ObjectiveSettings Settings(double beta, double smoothing = 0) {
  return {.kind = ObjectiveKind::kDpo, .dpo_beta = beta, .dpo_label_smoothing = smoothing};
}

TrainingRow PairOf(TrainingRow chosen, TrainingRow rejected) {
  chosen.counterpart = {std::move(rejected.ids), std::move(rejected.labels)};
  return chosen;
}

// Two pairs over 4 ids: three and two targets, one and three.
std::vector<TrainingRow> TwoPairs() {
  return {
      PairOf({.ids = {0, 1, 2, 3}, .labels = {kNone, 1, 2, 3}},
             {.ids = {0, 2, 2}, .labels = {kNone, 2, 2}}),
      PairOf({.ids = {3, 0}, .labels = {3, 0}}, {.ids = {3, 3, 1, 1}, .labels = {kNone, 3, 1, 1}})};
}

std::vector<at::Tensor> RandomLogits(const Loss& loss, int64_t vocabulary) {
  at::manual_seed(7);
  std::vector<at::Tensor> logits;
  for (const TrainingRow& sequence : loss.sequences()) {
    logits.push_back(at::randn({NumTargets(sequence.labels), vocabulary}, at::kFloat));
  }
  return logits;
}

TEST(Dpo, OnePairByHand) {
  // All logits are 0 over 2 ids: log p = -log 2 for each label. The reference gives the chosen
  // label 3/4: h = 2 (-log 2 - log 3/4 + log 2 + log 1/2) = 2 log 2/3, sigmoid(h) = 4/13.
  const std::vector<TrainingRow> rows = {
      PairOf({.ids = {0, 1}, .labels = {kNone, 1}}, {.ids = {0, 0}, .labels = {kNone, 0}})};
  ASSERT_OK_AND_ASSIGN(const std::unique_ptr<Loss> loss, MakeDpo(Settings(2), rows));
  FixedLogits reference({at::tensor({0.0f, std::log(3.0f)}).view({1, 2}), at::zeros({1, 2})});
  ASSERT_THAT(loss->Prepare(reference, {0}, {}), IsOk());
  const LossCase c(*loss);
  const LossCase::Result result = c.Run(*loss, at::zeros({2, 2}));
  EXPECT_NEAR(result.loss, std::log(13.0 / 4.0), 1e-6);
  // d loss / d h = -9/13; d h / d logits = 2 (onehot - 1/2) for the chosen, its opposite for the
  // rejected, where the target is the other id.
  const float g = 9.0f / 13.0f;
  EXPECT_TRUE(result.gradient.allclose(at::tensor({g, -g, g, -g}).view({2, 2}), 1e-5, 1e-6))
      << result.gradient;
  const std::map<std::string, double> figures = loss->TakeFigures();
  EXPECT_NEAR(figures.at("reward_chosen"), 2 * std::log(2.0 / 3.0), 1e-6);
  EXPECT_NEAR(figures.at("reward_rejected"), 0, 1e-6);
  EXPECT_NEAR(figures.at("reward_margin"), 2 * std::log(2.0 / 3.0), 1e-6);
  EXPECT_EQ(figures.at("reward_accuracy"), 0);
  EXPECT_EQ(loss->StepWeight({0}), 1);
}

at::Tensor AnswerLogProb(const at::Tensor& logits_LV, const TrainingRow& sequence) {
  std::vector<int64_t> targets;
  for (size_t t = 1; t < sequence.labels.size(); ++t) {
    if (sequence.labels[t] != kNone) targets.push_back(sequence.labels[t]);
  }
  return logits_LV.log_softmax(1).gather(1, at::tensor(targets).unsqueeze(1)).sum();
}

TEST(Dpo, ValueAndGradientAreThoseOfTheFormula) {
  for (const double smoothing : {0.0, 0.2}) {
    SCOPED_TRACE(smoothing);
    const std::vector<TrainingRow> rows = TwoPairs();
    ASSERT_OK_AND_ASSIGN(const std::unique_ptr<Loss> loss, MakeDpo(Settings(0.7, smoothing), rows));
    const std::vector<at::Tensor> reference = RandomLogits(*loss, 4);
    FixedLogits frozen(reference);
    ASSERT_THAT(loss->Prepare(frozen, AllRows(2), {}), IsOk());
    EXPECT_EQ(frozen.asked, std::vector<FrozenModel>{FrozenModel::kBase});
    const LossCase c(*loss);
    const at::Tensor logits = at::randn({c.rows(), 4}, at::kFloat).set_requires_grad(true);
    at::Tensor value = at::zeros({});
    int64_t begin = 0;
    at::Tensor ratios[4];
    for (size_t s = 0; s < 4; ++s) {
      const int64_t count = reference[s].size(0);
      const TrainingRow& sequence = loss->sequences()[s];
      ratios[s] = AnswerLogProb(logits.narrow(0, begin, count), sequence) -
                  AnswerLogProb(reference[s], sequence);
      begin += count;
    }
    for (size_t pair = 0; pair < 2; ++pair) {
      const at::Tensor h = 0.7 * (ratios[2 * pair] - ratios[2 * pair + 1]);
      value = value - (1 - smoothing) * at::log_sigmoid(h) - smoothing * at::log_sigmoid(-h);
    }
    ExpectAutograd(*loss, c, logits, value);
    ExpectFiniteDifferences(*loss, c, logits);
  }
}

TEST(Dpo, PreferenceWithoutLimitNeitherOverflowsNorPulls) {
  const std::vector<TrainingRow> rows = TwoPairs();
  ASSERT_OK_AND_ASSIGN(const std::unique_ptr<Loss> loss, MakeDpo(Settings(1000), rows));
  FixedLogits frozen(RandomLogits(*loss, 4));
  ASSERT_THAT(loss->Prepare(frozen, AllRows(2), {}), IsOk());
  const LossCase c(*loss);
  for (const double size : {1.0, 50.0}) {
    const LossCase::Result result = c.Run(*loss, at::randn({c.rows(), 4}, at::kFloat) * size);
    EXPECT_TRUE(std::isfinite(result.loss));
    EXPECT_TRUE(result.gradient.isfinite().all().item<bool>());
  }
}

TEST(Dpo, ARowThatStandsTwiceInAMicroBatchCountsTwice) {
  const std::vector<TrainingRow> rows = TwoPairs();
  ASSERT_OK_AND_ASSIGN(const std::unique_ptr<Loss> loss, MakeDpo(Settings(1), rows));
  FixedLogits frozen(RandomLogits(*loss, 4));
  ASSERT_THAT(loss->Prepare(frozen, AllRows(2), {}), IsOk());
  LossCase c(*loss);
  const at::Tensor logits = at::randn({c.rows(), 4}, at::kFloat);
  const double once = c.Run(*loss, logits).loss;
  const std::map<std::string, double> figures = loss->TakeFigures();
  const int64_t rows_once = c.rows();
  for (int64_t i = 0; i < rows_once; ++i) {
    TokenLayout::Target target = c.targets[static_cast<size_t>(i)];
    target.row += rows_once;
    target.first_label += rows_once;
    c.targets.push_back(target);
    c.labels.push_back(c.labels[static_cast<size_t>(i)]);
  }
  EXPECT_NEAR(c.Run(*loss, at::cat({logits, logits})).loss, 2 * once, 1e-9);
  EXPECT_EQ(loss->TakeFigures(), figures);
}

TEST(Dpo, ARowWithoutRejectedAnswerIsRefused) {
  std::vector<TrainingRow> rows = TwoPairs();
  rows[1].counterpart = {};
  EXPECT_THAT(MakeDpo(Settings(1), rows),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("row 1: dpo")));
}

// Pairs whose answers share a prompt, one prompt for two pairs, an answer that begins the other.
std::vector<TrainingRow> RandomPairs(const LlamaConfig& config) {
  std::vector<TrainingRow> rows;
  const std::vector<TokenId> prompt = RandomIds(config, 20, 100);
  for (uint64_t i = 0; i < 2; ++i) {
    rows.push_back(
        PairOf(RandomRow(config, 26, 200 + i, prompt), RandomRow(config, 24, 210 + i, prompt)));
  }
  rows.push_back(PairOf(RandomRow(config, 9, 1), RandomRow(config, 70, 2)));
  TrainingRow longer = RandomRow(config, 12, 3);
  TrainingRow shorter = longer;
  shorter.ids.resize(8);
  shorter.labels.resize(8);
  shorter.labels.back() = shorter.ids.back();
  rows.push_back(PairOf(longer, shorter));
  return rows;
}

Case DpoCase(double beta) {
  Case c = MakeCase("dpo", [&](Case& change) {
    change.recipe.objective = Settings(beta, 0.1);
    change.recipe.tokens_per_micro_batch = 10000;
  });
  c.rows = RandomPairs(c.config);
  return c;
}

TEST(Dpo, FastPathEqualsAutograd) {
  for (const double beta : {0.1, 1.0}) ExpectFastEqualsReference(DpoCase(beta));
}

TEST(Dpo, MicroBatchesOfAnySizeGiveTheSameStep) {
  Case c = DpoCase(0.5);
  const Gradient whole = Compute(c, MakeFastPath);
  for (const int64_t tokens : {1, 40, 90}) {
    SCOPED_TRACE(tokens);
    c.recipe.tokens_per_micro_batch = tokens;
    ExpectSame(Compute(c, MakeFastPath), whole);
    ExpectSame(Compute(c, MakeReferencePath), whole);
  }
}

TEST(Dpo, TheReferenceIsTheBareBaseOrTheAdapterAtTheStart) {
  Case c = DpoCase(0.5);
  const Gradient base = Compute(c, MakeFastPath);
  EXPECT_GT(std::abs(base.figures.at("reward_chosen")), 1e-3);
  c.recipe.objective.reference = FrozenModel::kInit;  // the same adapter: no reward
  for (const auto factory : {MakeFastPath, MakeReferencePath}) {
    const Gradient init = Compute(c, factory);
    EXPECT_NEAR(init.figures.at("reward_chosen"), 0, 1e-5);
    EXPECT_NEAR(init.figures.at("reward_rejected"), 0, 1e-5);
    EXPECT_NEAR(init.loss_sum, 4 * std::log(2.0), 1e-5);
  }
}

TEST(FastHead, LogitsComputedTwiceGiveTheBitsOfLogitsKept) {
  const Case c = DpoCase(0.5);
  const at::Tensor head = at::randn({37, 24}, at::kFloat);
  at::Tensor d_hidden[2];
  double losses[2];
  for (const int kept : {0, 1}) {
    ASSERT_OK_AND_ASSIGN(const std::unique_ptr<Loss> loss, MakeDpo(c.recipe.objective, c.rows));
    FixedLogits frozen(RandomLogits(*loss, 37));
    ASSERT_THAT(loss->Prepare(frozen, AllRows(c.rows.size()), {}), IsOk());
    const TokenLayout layout = LayOutTokens(loss->sequences(), AllRows(2 * c.rows.size()));
    const auto rows = static_cast<int64_t>(layout.predicting.size());
    ASSERT_GT(rows, 16);  // more than one of the smaller chunks
    at::manual_seed(3);
    const at::Tensor hidden = at::randn({rows, 24}, at::kFloat);
    d_hidden[kept] = at::zeros_like(hidden);
    FastHead fast(head, kept == 1 ? int64_t{1} << 20 : 1);
    losses[kept] = fast.LossAndGradient(layout, hidden.const_data_ptr<float>(), *loss, 0.5,
                                        d_hidden[kept].mutable_data_ptr<float>());
  }
  EXPECT_EQ(losses[0], losses[1]);
  EXPECT_TRUE(d_hidden[0].equal(d_hidden[1]));
}

}  // namespace
}  // namespace evolora
