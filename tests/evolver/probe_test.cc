#include "evolora/evolver/probe.h"

#include <cmath>

#include "cases.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace evolora {
namespace {

using ::testing::ElementsAre;
using testing::FactCase;
using testing::FailureOf;
using testing::FakeReplays;
using testing::Probed;
using testing::RuleCase;
using testing::RunPlan;

std::string PlanInWords(const std::vector<ProbeStep>& steps) {
  std::string words;
  for (const ProbeStep& step : steps) {
    absl::StrAppend(&words, words.empty() ? "" : " ", ProbeKindName(step.kind),
                    step.target == ProbeTarget::kSiblings ? "S" : "", step.trials);
  }
  return words;
}

Failure Fact() { return FailureOf(FactCase("f1", "Who leads Zo?", "Ada"), PatchKind::kKnowledge); }
Failure Rule(int num_siblings) {
  return FailureOf(RuleCase("r1", "Greet Bo", "Ahoy Bo", "Greet with ahoy."), PatchKind::kSkill,
                   num_siblings);
}

struct PlanRow {
  std::string name;
  Failure failure;
  FakeReplays replays;
  std::string plan;
};

TEST(NextProbe, StopsAsSoonAsTheGreedySignatureIsDecided) {
  Failure no_gold = Fact();
  no_gold.value.feedback = {};
  no_gold.candidate = PatchKind::kNone;
  Failure contradicted = Fact();
  contradicted.contradicts = "other";
  Failure prompt = Rule(4);
  prompt.candidate = PatchKind::kPrompt;
  Failure in_state = Fact();
  in_state.patch_in_state = true;
  const std::vector<PlanRow> rows = {
      {"gold refused", Fact(), {.gold = 0}, "gold1"},
      {"tool refuses gold", Fact(), {.gold = 0, .gold_tool_error = true}, "gold1"},
      {"contradiction costs nothing", contradicted, {}, "gold1"},
      {"passes now", Fact(), {.p0 = 1}, "gold1 p01"},
      {"trigger miss", Fact(), {.pp = 1, .pr = 0}, "gold1 p01 pp1 pr1"},
      {"knowledge",
       Fact(),
       {.pp = 1, .pp_siblings = 1, .pr = 1, .pr_siblings = 1},
       "gold1 p01 pp1 pr1 ppS3 prS3"},
      {"over-specific", Fact(), {.pp = 1, .pr = 1}, "gold1 p01 pp1 pr1 ppS3"},
      {"patch in the state", in_state, {.pp = 1}, "gold1 p01 pp1"},
      {"adherence", Rule(4), {.po = 1}, "gold1 p01 pp1 po1"},
      {"absent", Rule(4), {}, "gold1 p01 pp1 po1 pk5"},
      {"undecided siblings go on",
       Rule(4),
       {.pp = 1, .pp_siblings = 0.6, .pr = 1, .pr_siblings = 1},
       "gold1 p01 pp1 pr1 ppS3 ppS1 prS3"},
      {"no sibling known", Rule(0), {.pp = 1, .pr = 1}, "gold1 p01 pp1 pr1"},
      {"prompt lines are not retrieved", prompt, {.pp = 1, .pp_siblings = 1}, "gold1 p01 pp1 ppS3"},
      {"no feedback at all", no_gold, {}, "p01 pk5"},
  };
  for (const PlanRow& row : rows) {
    SCOPED_TRACE(row.name);
    EXPECT_EQ(PlanInWords(RunPlan(row.failure, {}, {}, row.replays).steps), row.plan);
  }
}

TEST(NextProbe, SampledServingTakesThreeToFivePairedReplays) {
  ProbePolicy policy;
  policy.decoding = Decoding::kSampled;
  const Probed clear =
      RunPlan(Fact(), {}, policy, {.pp = 1, .pp_siblings = 1, .pr = 1, .pr_siblings = 1});
  EXPECT_EQ(PlanInWords(clear.steps), "gold1 p03 pp3 pr3 ppS3 prS3");
  EXPECT_EQ(clear.steps[1].temperature, 0.7);
  EXPECT_EQ(clear.steps[1].decoding, Decoding::kSampled);

  // 2 of 3 is neither high nor low, so two more with the next seeds.
  const Probed unclear = RunPlan(Fact(), {}, policy, {.p0 = 0, .pp = 0.6});
  ASSERT_GE(unclear.steps.size(), 4u);
  EXPECT_EQ(unclear.steps[2].trials, 3);
  EXPECT_EQ(unclear.steps[3].kind, ProbeKind::kForcedPatch);
  EXPECT_EQ(unclear.steps[3].trials, 2);
  EXPECT_EQ(unclear.steps[3].first_seed, 3);
}

TEST(NextProbe, PassAtKIsSampledEvenWhenServingIsGreedy) {
  const Probed probed = RunPlan(Rule(3), {}, {}, {});
  EXPECT_EQ(probed.steps.back().kind, ProbeKind::kPassAtK);
  EXPECT_EQ(probed.steps.back().decoding, Decoding::kSampled);
  EXPECT_EQ(probed.steps[1].decoding, Decoding::kGreedy);
  EXPECT_EQ(probed.steps[1].temperature, 0);
}

TEST(NextProbe, NeverExceedsTheModelCallBudget) {
  for (int64_t budget = 0; budget <= 12; ++budget) {
    ProbePolicy policy;
    policy.max_model_calls = budget;
    const Probed probed = RunPlan(Rule(4), {}, policy, {});
    EXPECT_LE(probed.table.model_calls(), budget);
  }
}

TEST(NextProbe, EstablishedTextSignatureNeedsGoldAndForcedPatchOnly) {
  const ClusterEvidence evidence{{{FailureClass::kMissingKnowledge, 5}}};
  EXPECT_EQ(PlanInWords(RunPlan(Fact(), evidence, {}, {.pp = 1}).steps), "gold1 pp1");
}

TEST(NextProbe, EstablishedWeightsSignatureNeedsGoldOnly) {
  const ClusterEvidence evidence{{{FailureClass::kAbsentCapability, 5}}};
  EXPECT_EQ(PlanInWords(RunPlan(Rule(3), evidence, {}, {}).steps), "gold1");
}

TEST(NextProbe, ForcedPatchAgainstTheSignatureFallsBackToTheWholePlan) {
  const ClusterEvidence evidence{{{FailureClass::kMissingProcedure, 5}}};
  EXPECT_EQ(PlanInWords(RunPlan(Rule(3), evidence, {}, {.po = 1}).steps), "gold1 pp1 p01 po1");
}

TEST(NextProbe, SameInputGivesTheSameStep) {
  const ProbeContext context = ContextOf(Fact(), {}, {});
  EXPECT_EQ(NextProbe({}, context, {}), NextProbe({}, context, {}));
}

TEST(PosteriorAbove, EqualsClosedFormsOfTheBetaTail) {
  EXPECT_NEAR(PosteriorAbove(0, 0, 0.3), 0.7, 1e-12);                   // uniform
  EXPECT_NEAR(PosteriorAbove(3, 3, 0.6), 1 - std::pow(0.6, 4), 1e-12);  // Beta(4, 1)
  EXPECT_NEAR(PosteriorAbove(0, 3, 0.4), std::pow(0.6, 4), 1e-12);      // Beta(1, 4)
  EXPECT_NEAR(PosteriorAbove(2, 4, 0.5), 0.5, 1e-12);                   // symmetric
  // Beta(5, 2): 1 - (6 x^5 - 5 x^6)
  EXPECT_NEAR(PosteriorAbove(4, 5, 0.6), 1 - (6 * std::pow(0.6, 5) - 5 * std::pow(0.6, 6)), 1e-12);
}

TEST(ProbeTable, AddsCountsAndLeavesGoldOutOfModelCalls) {
  ProbeTable table;
  table.Add(ProbeKind::kGold, ProbeTarget::kOriginal, {1, 1, 0});
  table.Add(ProbeKind::kAsIs, ProbeTarget::kOriginal, {0, 1, 0});
  table.Add(ProbeKind::kAsIs, ProbeTarget::kOriginal, {1, 2, 1});
  EXPECT_EQ(table.at(ProbeKind::kAsIs, ProbeTarget::kOriginal).successes, 1);
  EXPECT_EQ(table.at(ProbeKind::kAsIs, ProbeTarget::kOriginal).trials, 3);
  EXPECT_EQ(table.model_calls(), 3);
}

TEST(SurfaceVariants, KeepTheQuestionAndDifferFromIt) {
  EXPECT_THAT(
      SurfaceVariants("Who leads {q}?"),
      ElementsAre("Please answer: Who leads {q}?", "Here is a question for you. Who leads {q}?",
                  "Who leads {q}? Keep it short."));
}

TEST(SurfaceVariantCases, ReplaceTheLastUserTurnOnly) {
  Case c = FactCase("f1", "first", "Ada");
  c.messages = {{"user", "first"}, {"assistant", "ok"}, {"user", "second"}};
  const std::vector<Case> variants = SurfaceVariantCases(c);
  ASSERT_EQ(variants.size(), 3u);
  EXPECT_EQ(variants[0].id, "f1#v1");
  EXPECT_EQ(variants[0].messages[0].content, "first");
  EXPECT_EQ(variants[0].messages[2].content, "Please answer: second");
  c.messages = {{"system", "only"}};
  EXPECT_TRUE(SurfaceVariantCases(c).empty());
}

}  // namespace
}  // namespace evolora
