#include <cmath>
#include <memory>
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

ObjectiveSettings Settings(int64_t top_k = 0, double temperature = 1) {
  return {
      .kind = ObjectiveKind::kDistill, .distill_top_k = top_k, .distill_temperature = temperature};
}

// Labelled as `row` at its end, after other ids.
TrainingRow WithTeacher(TrainingRow row, const std::vector<TokenId>& hint) {
  row.counterpart.ids = hint;
  row.counterpart.labels.assign(hint.size(), kNone);
  row.counterpart.ids.insert(row.counterpart.ids.end(), row.ids.begin(), row.ids.end());
  row.counterpart.labels.insert(row.counterpart.labels.end(), row.labels.begin(), row.labels.end());
  // A label at the first token is nobody's target; with the hint before it, it would be.
  row.counterpart.labels[hint.size()] = kNone;
  return row;
}

std::vector<TrainingRow> TwoRows() {
  return {WithTeacher({.ids = {0, 1, 2, 3}, .labels = {kNone, 1, kNone, 3}}, {4}),
          WithTeacher({.ids = {3, 0}, .labels = {3, 0}}, {1, 2})};
}

TEST(Distill, OneLabelByHand) {
  // The teacher gives 3/4 and 1/4, the model one half each.
  const std::vector<TrainingRow> rows = {WithTeacher({.ids = {0, 1}, .labels = {kNone, 1}}, {1})};
  ASSERT_OK_AND_ASSIGN(const std::unique_ptr<Loss> loss, MakeDistill(Settings(), rows));
  FixedLogits teacher({at::tensor({std::log(3.0f), 0.0f}).view({1, 2})});
  ASSERT_THAT(loss->Prepare(teacher, {0}, {}), IsOk());
  const LossCase::Result result = LossCase(*loss).Run(*loss, at::zeros({1, 2}));
  EXPECT_NEAR(result.loss, 0.75 * std::log(1.5) + 0.25 * std::log(0.5), 1e-6);
  EXPECT_NEAR(result.gradient.flatten()[0].item<double>(), -0.25, 1e-6);
  EXPECT_NEAR(result.gradient.flatten()[1].item<double>(), 0.25, 1e-6);
  EXPECT_EQ(loss->StepWeight({0}), 1);
}

TEST(Distill, TopKByHand) {
  // Teacher 1/2, 1/4, 1/8, 1/8; model uniform over 4. Kept: the first; the rest as one, 1/2 and
  // 3/4.
  const std::vector<TrainingRow> rows = {WithTeacher({.ids = {0, 1}, .labels = {kNone, 1}}, {1})};
  ASSERT_OK_AND_ASSIGN(const std::unique_ptr<Loss> loss, MakeDistill(Settings(1), rows));
  FixedLogits teacher({at::tensor({0.5f, 0.25f, 0.125f, 0.125f}).log().view({1, 4})});
  ASSERT_THAT(loss->Prepare(teacher, {0}, {}), IsOk());
  const LossCase::Result result = LossCase(*loss).Run(*loss, at::zeros({1, 4}));
  EXPECT_NEAR(result.loss, 0.5 * std::log(2.0) + 0.5 * std::log(2.0 / 3.0), 1e-6);
  // q - p = 1/4 - 1/2 on the kept one, q (1 - R / r) = 1/4 (1 - 2/3) elsewhere.
  const double expected[4] = {-0.25, 1.0 / 12, 1.0 / 12, 1.0 / 12};
  for (int64_t v = 0; v < 4; ++v) {
    EXPECT_NEAR(result.gradient.flatten()[v].item<double>(), expected[v], 1e-6) << v;
  }
}

// The formula in float64. top_k = 0: the whole vocabulary.
at::Tensor Formula(const at::Tensor& logits, const at::Tensor& teacher, int64_t top_k, double t) {
  at::Tensor log_q = (logits.to(at::kDouble) / t).log_softmax(1);
  at::Tensor log_p = (teacher.to(at::kDouble) / t).log_softmax(1);
  if (top_k > 0) {
    const at::Tensor top = std::get<1>(log_p.topk(top_k, 1));
    const auto with_rest = [&](const at::Tensor& log_probs) {
      const at::Tensor kept = log_probs.gather(1, top);
      return at::cat({kept, at::log1p(-kept.exp().sum(1, true))}, 1);
    };
    log_q = with_rest(log_q);
    log_p = with_rest(log_p);
  }
  return (log_p.exp() * (log_p - log_q)).sum();
}

TEST(Distill, ValueAndGradientAreThoseOfTheFormula) {
  for (const int64_t top_k : {0, 2, 4, 5}) {
    for (const double temperature : {1.0, 2.5}) {
      SCOPED_TRACE(absl::StrCat("top ", top_k, ", temperature ", temperature));
      const std::vector<TrainingRow> rows = TwoRows();
      ASSERT_OK_AND_ASSIGN(const std::unique_ptr<Loss> loss,
                           MakeDistill(Settings(top_k, temperature), rows));
      at::manual_seed(5);
      const std::vector<at::Tensor> teacher = {at::randn({2, 5}, at::kFloat),
                                               at::randn({1, 5}, at::kFloat)};
      FixedLogits frozen(teacher);
      ASSERT_THAT(loss->Prepare(frozen, AllRows(2), {}), IsOk());
      const LossCase c(*loss);
      const at::Tensor logits = at::randn({3, 5}, at::kFloat).set_requires_grad(true);
      ExpectAutograd(*loss, c, logits,
                     Formula(logits, at::cat(teacher), top_k < 5 ? top_k : 0, temperature));
      ExpectFiniteDifferences(*loss, c, logits);
    }
  }
}

TEST(Distill, AModelThatAgreesLearnsNothing) {
  for (const int64_t top_k : {0, 2}) {
    const std::vector<TrainingRow> rows = TwoRows();
    ASSERT_OK_AND_ASSIGN(const std::unique_ptr<Loss> loss, MakeDistill(Settings(top_k), rows));
    const at::Tensor logits = at::randn({3, 5}, at::kFloat);
    FixedLogits frozen({logits.narrow(0, 0, 2).contiguous(), logits.narrow(0, 2, 1).contiguous()});
    ASSERT_THAT(loss->Prepare(frozen, AllRows(2), {}), IsOk());
    const LossCase::Result result = LossCase(*loss).Run(*loss, logits + 3);
    EXPECT_NEAR(result.loss, 0, 1e-6);
    EXPECT_LT(result.gradient.abs().max().item<double>(), 1e-6);
  }
}

TEST(Distill, ATeacherOfOtherLabelsIsRefused) {
  std::vector<TrainingRow> rows = TwoRows();
  rows[1].counterpart.labels.back() = 7;
  EXPECT_THAT(MakeDistill(Settings(), rows),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("row 1: distill")));
  rows[1].counterpart = {};
  EXPECT_THAT(MakeDistill(Settings(), rows),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("row 1: distill")));
}

// Two rows that are equal but for what their teachers see, and one alone.
Case DistillCase(int64_t top_k) {
  Case c = MakeCase("distill", [&](Case& change) {
    change.recipe.objective = Settings(top_k, 1.5);
    change.recipe.tokens_per_micro_batch = 10000;
  });
  const TrainingRow row = RandomRow(c.config, 30, 1);
  c.rows = {WithTeacher(row, RandomIds(c.config, 5, 10)),
            WithTeacher(row, RandomIds(c.config, 8, 11)),
            WithTeacher(RandomRow(c.config, 12, 2), RandomIds(c.config, 3, 12))};
  return c;
}

TEST(Distill, FastPathEqualsAutograd) {
  for (const int64_t top_k : {0, 6}) ExpectFastEqualsReference(DistillCase(top_k));
}

TEST(Distill, MicroBatchesOfAnySizeGiveTheSameStep) {
  for (const int64_t top_k : {0, 6}) {
    Case c = DistillCase(top_k);
    const Gradient whole = Compute(c, MakeFastPath);
    for (const int64_t tokens : {1, 35}) {
      c.recipe.tokens_per_micro_batch = tokens;
      ExpectSame(Compute(c, MakeFastPath), whole);
    }
  }
}

TEST(Distill, ATeacherWithoutHintAndWithTheSameAdapterTeachesNothing) {
  Case c = DistillCase(0);
  for (TrainingRow& row : c.rows) row.counterpart = {.ids = row.ids, .labels = row.labels};
  EXPECT_GT(Compute(c, MakeFastPath).loss_sum, 1e-3);  // the base without the adapter
  c.recipe.objective.reference = FrozenModel::kInit;
  const Gradient same = Compute(c, MakeFastPath);
  EXPECT_NEAR(same.loss_sum, 0, 1e-5);
  EXPECT_LT(same.parameters.gradient.abs().max().item<double>(), 1e-6);
}

}  // namespace
}  // namespace evolora
