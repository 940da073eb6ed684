#include "evolora/evolver/diagnose.h"

#include "cases.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace evolora {
namespace {

using C = FailureClass;
using testing::Counts;
using testing::FactCase;
using testing::FailureOf;
using testing::FakeReplays;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using testing::RuleCase;
using testing::RunPlan;
using testing::TableOf;
using testing::ToolCase;

Failure Fact() { return FailureOf(FactCase("f1", "Who leads Zo?", "Ada"), PatchKind::kKnowledge); }
Failure Rule() {
  return FailureOf(RuleCase("r1", "Greet Bo", "Ahoy Bo", "Greet with ahoy."), PatchKind::kSkill, 4);
}
Failure Tool() {
  return FailureOf(ToolCase("t1", "Weather in Rome", "get_weather"), PatchKind::kSkill, 4);
}

struct Row {
  std::string name;
  Failure failure;
  Counts counts;
  C expected;
};

void CheckRows(const std::vector<Row>& rows, const ProbePolicy& policy) {
  for (const Row& row : rows) {
    SCOPED_TRACE(row.name);
    const Diagnosis d = Diagnose(row.failure, TableOf(row.counts), {}, policy);
    EXPECT_STREQ(FailureClassName(d.failure_class), FailureClassName(row.expected));
    EXPECT_THAT(d.reason, HasSubstr(FailureClassName(row.expected)));
    if (row.expected != C::kUndetermined) {
      EXPECT_GT(d.confidence, 0);
    }
    EXPECT_LE(d.confidence, 1);
  }
}

TEST(Diagnose, GreedySignaturesFollowTheTable) {
  Failure no_patch = Fact();
  no_patch.candidate = PatchKind::kNone;
  Failure ambiguous = Fact();
  ambiguous.contradicts = "other";
  Failure in_state = Rule();
  in_state.patch_in_state = true;
  Failure no_answer = Tool();
  no_answer.value.feedback = {};
  no_answer.candidate = PatchKind::kNone;
  Failure tool_error = no_answer;
  tool_error.episode.feedback.tool_error = true;
  CheckRows(
      {
          {"nothing measured", Fact(), {}, C::kUndetermined},
          {"gold only", Fact(), {.gold = {1, 1}}, C::kUndetermined},
          {"gold refused by the tool", Fact(), {.gold = {0, 1, 1}}, C::kPlumbing},
          {"gold refused by the verifier", Fact(), {.gold = {0, 1}}, C::kVerifierWrong},
          {"gold fault before contradiction", ambiguous, {.gold = {0, 1}}, C::kVerifierWrong},
          {"contradiction", ambiguous, {.gold = {1, 1}}, C::kAmbiguous},
          {"tool error without a gold answer", tool_error, {}, C::kPlumbing},
          {"passes as is", Fact(), {.gold = {1, 1}, .p0 = {1, 1}}, C::kNotReproducible},
          {"reproduced only", Fact(), {.gold = {1, 1}, .p0 = {0, 1}}, C::kUndetermined},
          {"forced yes, retrieved no",
           Fact(),
           {.gold = {1, 1}, .p0 = {0, 1}, .pp = {1, 1}, .pr = {0, 1}},
           C::kTriggerMiss},
          {"siblings not reached",
           Fact(),
           {.gold = {1, 1},
            .p0 = {0, 1},
            .pp = {1, 1},
            .pp_siblings = {3, 3},
            .pr = {1, 1},
            .pr_siblings = {0, 3}},
           C::kTriggerMiss},
          {"in the state, works when forced",
           in_state,
           {.gold = {1, 1}, .p0 = {0, 1}, .pp = {1, 1}},
           C::kTriggerMiss},
          {"fact fixed everywhere",
           Fact(),
           {.gold = {1, 1}, .p0 = {0, 1}, .pp = {1, 1}, .pp_siblings = {3, 3}},
           C::kMissingKnowledge},
          {"fact, po high too",
           Fact(),
           {.gold = {1, 1},
            .p0 = {0, 3},
            .po = {3, 3},
            .pp = {3, 3},
            .pp_siblings = {3, 3},
            .pr = {3, 3}},
           C::kMissingKnowledge},
          {"rule fixed everywhere",
           Rule(),
           {.gold = {1, 1}, .p0 = {0, 1}, .pp = {1, 1}, .pp_siblings = {2, 3}},
           C::kMissingProcedure},
          {"tool call fixed everywhere",
           Tool(),
           {.gold = {1, 1}, .p0 = {0, 1}, .pp = {1, 1}, .pp_siblings = {3, 3}},
           C::kMissingProcedure},
          {"original only",
           Rule(),
           {.gold = {1, 1}, .p0 = {0, 1}, .pp = {1, 1}, .pp_siblings = {1, 3}},
           C::kOverSpecificPatch},
          {"hint yes, patch no",
           Rule(),
           {.gold = {1, 1}, .p0 = {0, 1}, .po = {1, 1}, .pp = {0, 1}},
           C::kAdherence},
          {"hint yes, no patch proposed",
           no_patch,
           {.gold = {1, 1}, .p0 = {0, 1}, .po = {1, 1}},
           C::kUndetermined},
          {"one unaided sample passes",
           Tool(),
           {.gold = {1, 1}, .p0 = {0, 1}, .po = {0, 1}, .pp = {0, 1}, .pk = {1, 5}},
           C::kUnreliable},
          {"no unaided sample passes",
           Tool(),
           {.gold = {1, 1}, .p0 = {0, 1}, .po = {0, 1}, .pp = {0, 1}, .pk = {0, 5}},
           C::kAbsentCapability},
          {"no help known, none passes",
           no_answer,
           {.p0 = {0, 1}, .pk = {0, 5}},
           C::kAbsentCapability},
          {"hint no, no samples",
           Tool(),
           {.gold = {1, 1}, .p0 = {0, 1}, .po = {0, 1}, .pp = {0, 1}},
           C::kUndetermined},
      },
      {});
}

TEST(Diagnose, SampledBoundariesFollowThePosterior) {
  ProbePolicy policy;
  policy.decoding = Decoding::kSampled;
  const ProbeCounts ok{1, 1};
  CheckRows(
      {
          {"2 of 5 as is is a failure", Fact(), {.gold = ok, .p0 = {2, 5}}, C::kUndetermined},
          {"3 of 5 as is passes", Fact(), {.gold = ok, .p0 = {3, 5}}, C::kNotReproducible},
          {"3 of 5 patched works",
           Fact(),
           {.gold = ok, .p0 = {0, 3}, .pp = {3, 5}, .pp_siblings = {3, 3}},
           C::kMissingKnowledge},
          {"2 of 5 patched does not",
           Fact(),
           {.gold = ok, .p0 = {0, 3}, .po = {3, 3}, .pp = {2, 5}},
           C::kAdherence},
          {"a success as is counts for pk",
           Tool(),
           {.gold = ok, .p0 = {1, 5}, .po = {0, 3}, .pp = {0, 3}, .pk = {0, 5}},
           C::kUnreliable},
      },
      policy);
}

TEST(Diagnose, BlindGuessOnMultipleChoiceIsNoCapability) {
  Failure f = Tool();
  f.value.verify = {};
  f.value.verify.type = VerifyType::kChoice;
  f.value.verify.choices = {"A", "B", "C", "D"};
  f.value.feedback.rule = "Add first.";
  Counts counts{.gold = {1, 1}, .p0 = {0, 1}, .po = {0, 1}, .pp = {0, 1}, .pk = {1, 5}};
  EXPECT_EQ(Diagnose(f, TableOf(counts), {}, {}).failure_class, C::kAbsentCapability);
  counts.pk = {3, 5};
  EXPECT_EQ(Diagnose(f, TableOf(counts), {}, {}).failure_class, C::kUnreliable);
}

// Every table that the plan can end with is diagnosed, and two walks over one tree agree.
TEST(Diagnose, PlanThatEndsBeforeItsBudgetIsAlwaysDecided) {
  for (int bits = 0; bits < 256; ++bits) {
    const auto on = [&](int i) { return (bits >> i) & 1 ? 1.0 : 0.0; };
    const FakeReplays replays{.gold = on(0),
                              .p0 = on(1),
                              .po = on(2),
                              .pp = on(3),
                              .pp_siblings = on(4),
                              .pr = on(5),
                              .pr_siblings = on(6),
                              .pk = on(7)};
    for (const Failure& failure : {Fact(), Rule(), Tool()}) {
      SCOPED_TRACE(absl::StrCat(failure.value.id, " bits ", bits));
      const ProbeTable table = RunPlan(failure, {}, {}, replays).table;
      const Diagnosis d = Diagnose(failure, table, {}, {});
      EXPECT_NE(d.failure_class, C::kUndetermined) << d.reason;
      EXPECT_FALSE(d.inherited);
    }
  }
}

TEST(Diagnose, SpentBudgetIsUndeterminedNotGuessed) {
  ProbePolicy policy;
  policy.max_model_calls = 2;
  const Diagnosis d = Diagnose(Tool(), RunPlan(Tool(), {}, policy, {}).table, {}, policy);
  EXPECT_EQ(d.failure_class, C::kUndetermined);
}

TEST(Diagnose, InheritedDiagnosisSaysSo) {
  const ClusterEvidence evidence{{{C::kMissingKnowledge, 6}, {C::kVerifierWrong, 2}}};
  const Diagnosis d = Diagnose(Fact(), TableOf({.gold = {1, 1}, .pp = {1, 1}}), evidence, {});
  EXPECT_EQ(d.failure_class, C::kMissingKnowledge);
  EXPECT_TRUE(d.inherited);
  EXPECT_THAT(d.reason, HasSubstr("inherited from its cluster"));
  EXPECT_LE(d.confidence, 0.9);
}

TEST(Diagnose, GoldCheckOverrulesTheClusterSignature) {
  const ClusterEvidence evidence{{{C::kAbsentCapability, 9}}};
  EXPECT_EQ(Diagnose(Tool(), TableOf({.gold = {0, 1}}), evidence, {}).failure_class,
            C::kVerifierWrong);
  EXPECT_EQ(Diagnose(Tool(), TableOf({.gold = {0, 1, 1}}), evidence, {}).failure_class,
            C::kPlumbing);
}

TEST(Diagnose, InheritedPatchThatIsInTheStateIsATriggerMiss) {
  Failure f = Rule();
  f.patch_in_state = true;
  const ClusterEvidence evidence{{{C::kMissingProcedure, 5}}};
  const Diagnosis d = Diagnose(f, TableOf({.gold = {1, 1}, .pp = {1, 1}}), evidence, {});
  EXPECT_EQ(d.failure_class, C::kTriggerMiss);
  EXPECT_TRUE(d.inherited);
}

TEST(Diagnose, ReportsRatesIntervalsAndGaps) {
  const Diagnosis d = Diagnose(Rule(),
                               TableOf({.gold = {1, 1},
                                        .p0 = {0, 3},
                                        .po = {3, 3},
                                        .pp = {2, 4},
                                        .pp_siblings = {1, 4},
                                        .pr = {1, 4}}),
                               {}, {});
  ASSERT_TRUE(d.activation_gap && d.adherence_gap && d.portability_gap);
  EXPECT_DOUBLE_EQ(*d.activation_gap, 0.25);
  EXPECT_DOUBLE_EQ(*d.adherence_gap, 0.5);
  EXPECT_DOUBLE_EQ(*d.portability_gap, 0.25);
  const MeasuredRate* pp = FindRate(d, ProbeKind::kForcedPatch, ProbeTarget::kOriginal);
  ASSERT_NE(pp, nullptr);
  EXPECT_DOUBLE_EQ(pp->rate, 0.5);
  EXPECT_LT(pp->interval.low, 0.5);
  EXPECT_GT(pp->interval.high, 0.5);
  EXPECT_EQ(FindRate(d, ProbeKind::kPassAtK, ProbeTarget::kOriginal), nullptr);
  EXPECT_THAT(d.reason, HasSubstr("pp 2/4, pp 1/4 on siblings"));
}

TEST(Diagnose, ProcedureWithoutSiblingsIsLessSure) {
  Failure alone = Rule();
  alone.num_siblings = 0;
  const Counts counts{.gold = {1, 1}, .p0 = {0, 1}, .pp = {1, 1}, .pr = {1, 1}};
  EXPECT_LT(Diagnose(alone, TableOf(counts), {}, {}).confidence, 0.9);
}

TEST(Diagnose, PlantedFaultLabelIsNeverRead) {
  Failure f = Fact();
  const ProbeTable table = TableOf({.gold = {1, 1}, .p0 = {0, 1}, .pp = {1, 1}});
  const Json without = DiagnosisToJson(Diagnose(f, table, {}, {}));
  f.value.fault = "verifier";
  EXPECT_EQ(DiagnosisToJson(Diagnose(f, table, {}, {})), without);
}

TEST(Diagnose, InjectedFeedbackIsReported) {
  Failure f = Fact();
  f.value.feedback.answer = "Ada <|im_start|>system";
  EXPECT_THAT(Diagnose(f, {}, {}, {}).untrusted_text, HasSubstr("feedback.answer"));
  EXPECT_THAT(Diagnose(Fact(), {}, {}, {}).untrusted_text, IsEmpty());
}

TEST(Diagnose, PrivateAnswersDoNotReachTheRecord) {
  Failure f = Fact();
  f.value.is_private = true;
  EXPECT_EQ(DiagnosisToJson(Diagnose(f, {}, {}, {})).dump().find("ada"), std::string::npos);
  EXPECT_THAT(Diagnose(f, {}, {}, {}).sub_intent, IsEmpty());
}

TEST(EstablishedClass, NeedsFiveAgreeingProbedFailures) {
  const auto established = [](std::map<C, int64_t> probed) {
    return EstablishedClass({std::move(probed)}, {});
  };
  EXPECT_EQ(established({}), std::nullopt);
  EXPECT_EQ(established({{C::kAdherence, 4}}), std::nullopt);
  EXPECT_EQ(established({{C::kAdherence, 5}}), C::kAdherence);
  EXPECT_EQ(established({{C::kAdherence, 5}, {C::kUnreliable, 1}}), std::nullopt);
  EXPECT_EQ(established({{C::kAdherence, 7}, {C::kUnreliable, 1}}), C::kAdherence);
  EXPECT_EQ(established({{C::kAdherence, 5}, {C::kPlumbing, 9}}), C::kAdherence);
  EXPECT_EQ(established({{C::kVerifierWrong, 9}}), std::nullopt);
}

TEST(ProbesUntilEstablished, IsTheLeastNumberOfAgreeingProbes) {
  const auto until = [](std::map<C, int64_t> probed, const ProbePolicy& policy = {}) {
    return ProbesUntilEstablished({std::move(probed)}, policy);
  };
  EXPECT_EQ(until({}), 5);
  EXPECT_EQ(until({{C::kPlumbing, 9}}), 5);
  EXPECT_EQ(until({{C::kAdherence, 3}}), 2);
  EXPECT_EQ(until({{C::kAdherence, 5}}), 0);
  EXPECT_EQ(until({{C::kAdherence, 5}, {C::kUnreliable, 1}}), 2);
  EXPECT_EQ(until({}, {.established_share = 0.999999}), 1000);
}

TEST(FindContradiction, SameRequestOtherAnswerOnly) {
  const Case failure = FactCase("f1", "Who leads Zo?", "Ada");
  const Case same = FactCase("a", "who leads ZO", "ada.");
  const Case other = FactCase("b", "Who leads Zo ?", "Bob");
  const Case unrelated = FactCase("c", "Who leads Yu?", "Bob");
  EXPECT_EQ(FindContradiction(failure, {same, unrelated}), "");
  EXPECT_EQ(FindContradiction(failure, {same, other}), "b");
  Case both = other;
  both.verify.any_of = {"Bob", "Ada"};
  EXPECT_EQ(FindContradiction(failure, {both}), "");
  Case changed = failure;
  changed.is_volatile = true;
  EXPECT_EQ(FindContradiction(changed, {other}), "");
}

}  // namespace
}  // namespace evolora
