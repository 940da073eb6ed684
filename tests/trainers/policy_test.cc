#include <cmath>
#include <memory>
#include <vector>

#include "ATen/ATen.h"
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
using ::evolora::testing::RandomRow;
using ::evolora::testing::StatusIs;
using ::testing::HasSubstr;

constexpr TokenId kNone = kIgnoreLabel;

ObjectiveSettings Settings(PolicyLoss loss = PolicyLoss::kGrpo,
                           PolicyMean mean = PolicyMean::kTokens) {
  return {.kind = ObjectiveKind::kPolicy, .policy_loss = loss, .policy_mean = mean};
}

TrainingRow Sample(TrainingRow row, double advantage, std::vector<float> old_log_probs) {
  row.sample.advantage = advantage;
  row.sample.old_log_probs = std::move(old_log_probs);
  return row;
}

TEST(Policy, OneLabelByHand) {
  // log p = log 1/2 over two ids; the ratio to the old probability p / old.
  struct Row {
    const char* name;
    PolicyLoss loss;
    double old_prob;
    double advantage;
    double value;
    double slope;  // d value / d log p
  };
  const PolicyLoss grpo = PolicyLoss::kGrpo, cispo = PolicyLoss::kCispo;
  const double log_half = std::log(0.5);
  const std::vector<Row> rows = {
      {"on policy, good", grpo, 0.5, 2, -2, -2},
      {"on policy, bad", grpo, 0.5, -2, 2, 2},
      {"grown beyond the clip, good: no pull", grpo, 0.25, 3, -3.6, 0},
      {"grown beyond the clip, bad: back", grpo, 0.25, -3, 6, 6},
      {"shrunk below the clip, bad: no push", grpo, 1.0, -3, 2.4, 0},
      {"shrunk below the clip, good: back", grpo, 1.0, 3, -1.5, -1.5},
      {"cispo on policy", cispo, 0.5, 2, -2 * log_half, -2},
      {"cispo grown: weight held at the clip", cispo, 0.25, 3, -3.6 * log_half, -3.6},
      {"cispo shrunk: weight is the ratio", cispo, 1.0, 3, -1.5 * log_half, -1.5},
  };
  for (const Row& row : rows) {
    SCOPED_TRACE(row.name);
    const std::vector<TrainingRow> samples = {Sample({.ids = {0, 1}, .labels = {kNone, 1}},
                                                     row.advantage,
                                                     {static_cast<float>(std::log(row.old_prob))})};
    ASSERT_OK_AND_ASSIGN(const std::unique_ptr<Loss> loss, MakePolicy(Settings(row.loss), samples));
    FixedLogits frozen({at::zeros({1, 2})});
    ASSERT_THAT(loss->Prepare(frozen, {0}, {}), IsOk());
    const LossCase::Result result = LossCase(*loss).Run(*loss, at::zeros({1, 2}));
    EXPECT_NEAR(result.loss, row.value, 1e-6);
    EXPECT_NEAR(result.gradient.flatten()[1].item<double>(), 0.5 * row.slope, 1e-6);
    EXPECT_NEAR(result.gradient.flatten()[0].item<double>(), -0.5 * row.slope, 1e-6);
    const std::map<std::string, double> figures = loss->TakeFigures();
    EXPECT_NEAR(figures.at("policy_ratio"), 0.5 / row.old_prob, 1e-6);
    EXPECT_EQ(figures.at("policy_clipped"),
              row.loss == grpo ? (row.slope == 0 ? 1 : 0) : (row.old_prob < 0.4 ? 1 : 0));
  }
}

TrainingRow Rewarded(double reward, const std::string& group) {
  TrainingRow row{.ids = {0, 1}, .labels = {kNone, 1}};
  row.sample.reward = reward;
  row.sample.group = group;
  return row;
}

// The advantages as they act: on policy, grpo's value is minus their sum.
double ValueOf(const std::vector<TrainingRow>& rows, size_t only, ObjectiveSettings settings) {
  const auto loss = MakePolicy(settings, rows);
  EXPECT_TRUE(loss.ok()) << loss.status();
  FixedLogits frozen(std::vector<at::Tensor>(rows.size(), at::zeros({1, 2})));
  EXPECT_THAT((*loss)->Prepare(frozen, AllRows(rows.size()), {}), IsOk());
  LossCase c(**loss);
  c.targets = {{0, 1, 1, 0}};
  c.labels = {{static_cast<int64_t>(only), 0}};
  return c.Run(**loss, at::zeros({1, 2})).loss;
}

TEST(Policy, RewardsAreComparedWithinTheirGroup) {
  const std::vector<TrainingRow> rows = {Rewarded(1, "a"), Rewarded(10, "b"), Rewarded(4, "a"),
                                         Rewarded(10, "b"), Rewarded(1, "a")};
  const double deviation = std::sqrt(3.0);  // of 1, 4, 1 around 2
  EXPECT_NEAR(ValueOf(rows, 0, Settings()), 1 / (deviation + 1e-4), 1e-6);
  EXPECT_NEAR(ValueOf(rows, 2, Settings()), -2 / (deviation + 1e-4), 1e-6);
  EXPECT_NEAR(ValueOf(rows, 1, Settings()), 0, 1e-6);
  ObjectiveSettings plain = Settings();
  plain.policy_scale_rewards = false;
  EXPECT_NEAR(ValueOf(rows, 2, plain), -2, 1e-6);
}

TEST(Policy, RefusesRowsThatSayTooLittle) {
  EXPECT_THAT(MakePolicy(Settings(), std::vector<TrainingRow>{Rewarded(1, "a"), Rewarded(2, "b")}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("row 0: the only one of group "
                                                                     "'a'")));
  EXPECT_THAT(
      MakePolicy(Settings(), std::vector<TrainingRow>{{.ids = {0, 1}, .labels = {kNone, 1}}}),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("neither advantage")));
  EXPECT_THAT(
      MakePolicy(Settings(), std::vector<TrainingRow>{Sample({.ids = {0, 1}, .labels = {kNone, 1}},
                                                             1, {-1.0f, -2.0f})}),
      StatusIs(absl::StatusCode::kInvalidArgument,
               HasSubstr("row 0: 2 old_logprobs for 1 labels")));
}

// Three and one labels; the third logit row is far from the old value.
std::vector<TrainingRow> TwoSamples() {
  return {Sample({.ids = {0, 1, 2, 3}, .labels = {kNone, 1, 2, 3}}, 0.8, {-1.5f, -1.2f, -4.0f}),
          Sample({.ids = {3, 0}, .labels = {kNone, 0}}, -1.3, {-1.0f})};
}

TEST(Policy, ValueAndGradientAreThoseOfTheFormula) {
  for (const PolicyLoss kind : {PolicyLoss::kGrpo, PolicyLoss::kCispo}) {
    for (const PolicyMean mean : {PolicyMean::kTokens, PolicyMean::kSequences}) {
      SCOPED_TRACE(absl::StrCat(static_cast<int>(kind), static_cast<int>(mean)));
      const std::vector<TrainingRow> rows = TwoSamples();
      ObjectiveSettings settings = Settings(kind, mean);
      settings.policy_clip_high = 0.3;
      settings.policy_kl_beta = 0.1;
      ASSERT_OK_AND_ASSIGN(const std::unique_ptr<Loss> loss, MakePolicy(settings, rows));
      EXPECT_EQ(loss->StepWeight({0, 1}), mean == PolicyMean::kTokens ? 4 : 2);
      at::manual_seed(6);
      const at::Tensor reference = at::randn({4, 4}, at::kFloat);
      FixedLogits frozen(
          {reference.narrow(0, 0, 3).contiguous(), reference.narrow(0, 3, 1).contiguous()});
      ASSERT_THAT(loss->Prepare(frozen, AllRows(2), {}), IsOk());
      const at::Tensor logits = at::randn({4, 4}, at::kFloat).set_requires_grad(true);
      const at::Tensor targets = at::tensor({1, 2, 3, 0}, at::kLong).unsqueeze(1);
      const at::Tensor log_p = logits.log_softmax(1).gather(1, targets).squeeze(1);
      const at::Tensor log_ref = reference.log_softmax(1).gather(1, targets).squeeze(1);
      const at::Tensor old = at::tensor({-1.5f, -1.2f, -4.0f, -1.0f});
      const at::Tensor advantage = at::tensor({0.8f, 0.8f, 0.8f, -1.3f});
      const at::Tensor ratio = (log_p - old).exp();
      at::Tensor value;
      if (kind == PolicyLoss::kGrpo) {
        value = -at::minimum(ratio * advantage, ratio.clamp(0.8, 1.3) * advantage);
      } else {
        value = -ratio.clamp_max(1.3).detach() * advantage * log_p;
      }
      value = value + 0.1 * ((log_ref - log_p).exp() - (log_ref - log_p) - 1);
      const float third = 1.0f / 3;
      if (mean == PolicyMean::kSequences) value = value * at::tensor({third, third, third, 1.0f});
      ExpectAutograd(*loss, LossCase(*loss), logits, value.sum());
      // cispo holds its weight fixed, so its value moves by more than its gradient says.
      if (kind == PolicyLoss::kGrpo) {
        ExpectFiniteDifferences(*loss, LossCase(*loss), logits.detach(), 2e-3);
      }
    }
  }
}

Case PolicyCase(PolicyLoss kind, bool with_old) {
  Case c = MakeCase("policy", [&](Case& change) {
    change.recipe.objective = Settings(kind, PolicyMean::kSequences);
    change.recipe.objective.policy_kl_beta = 0.1;
    change.recipe.tokens_per_micro_batch = 10000;
  });
  const std::vector<TokenId> prompt = testing::RandomIds(c.config, 10, 1);
  c.rows.clear();
  for (uint64_t i = 0; i < 5; ++i) {
    TrainingRow row = RandomRow(c.config, 14 + static_cast<int64_t>(5 * i), 30 + i, prompt);
    row.sample.advantage = 1.5 - static_cast<double>(i);
    if (with_old) {
      row.sample.old_log_probs.assign(static_cast<size_t>(NumTargets(row.labels)), -3.5f);
    }
    c.rows.push_back(row);
  }
  return c;
}

TEST(Policy, FastPathEqualsAutograd) {
  for (const bool with_old : {true, false}) {
    ExpectFastEqualsReference(PolicyCase(PolicyLoss::kGrpo, with_old));
    ExpectFastEqualsReference(PolicyCase(PolicyLoss::kCispo, with_old));
  }
}

TEST(Policy, MicroBatchesOfAnySizeGiveTheSameStep) {
  Case c = PolicyCase(PolicyLoss::kGrpo, true);
  const Gradient whole = Compute(c, MakeFastPath);
  EXPECT_GT(whole.figures.at("policy_clipped"), 0);
  for (const int64_t tokens : {1, 40}) {
    c.recipe.tokens_per_micro_batch = tokens;
    ExpectSame(Compute(c, MakeFastPath), whole);
  }
}

TEST(Policy, SamplesWithoutLogProbsAreThoseOfTheStart) {
  const Gradient bare = Compute(PolicyCase(PolicyLoss::kGrpo, false), MakeFastPath);
  EXPECT_NEAR(bare.figures.at("policy_ratio"), 1, 1e-6);
  EXPECT_NEAR(bare.figures.at("policy_kl_old"), 0, 1e-6);
  EXPECT_EQ(bare.figures.at("policy_clipped"), 0);
}

}  // namespace
}  // namespace evolora
