#include "evolora/evolver/decide.h"

#include "cases.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "ledger_events.h"
#include "support/status_matchers.h"

namespace evolora {
namespace {

using C = FailureClass;
using testing::Counts;
using testing::ExampleOf;
using testing::FactCase;
using testing::FailureOf;
using testing::FillWaiting;
using testing::FindMask;
using ::testing::HasSubstr;
using testing::LedgerBook;
using testing::RuleCase;
using testing::StatusIs;
using testing::TableOf;
using testing::ToolCase;

const Counts kKnowledge{.gold = {1, 1}, .p0 = {0, 1}, .pp = {1, 1}, .pp_siblings = {3, 3}};
const Counts kTriggerMiss{.gold = {1, 1}, .p0 = {0, 1}, .pp = {1, 1}, .pr = {0, 1}};
const Counts kOverSpecific{.gold = {1, 1}, .p0 = {0, 1}, .pp = {1, 1}, .pp_siblings = {0, 3}};
const Counts kAdherence{.gold = {1, 1}, .p0 = {0, 1}, .po = {1, 1}, .pp = {0, 1}};
const Counts kUnreliable{.gold = {1, 1}, .p0 = {0, 1}, .po = {0, 1}, .pp = {0, 1}, .pk = {2, 5}};
const Counts kAbsent{.gold = {1, 1}, .p0 = {0, 1}, .po = {0, 1}, .pp = {0, 1}, .pk = {0, 5}};
const Counts kPlumbing{.gold = {0, 1, 1}};
const Counts kVerifierWrong{.gold = {0, 1}};
const Counts kPasses{.gold = {1, 1}, .p0 = {1, 1}};

Failure Fact() { return FailureOf(FactCase("f1", "Who leads Zo?", "Ada"), PatchKind::kKnowledge); }
Failure Rule(PatchKind kind = PatchKind::kSkill) {
  return FailureOf(RuleCase("r1", "Greet Bo", "Ahoy Bo", "Greet with ahoy."), kind, 4);
}
Failure Tool() {
  return FailureOf(ToolCase("t1", "Weather in Rome", "get_weather"), PatchKind::kSkill, 4);
}
Diagnosis Of(const Failure& failure, const Counts& counts) {
  return Diagnose(failure, TableOf(counts), {}, {});
}
LedgerSnapshot Early() { return {.requests_seen = 20}; }

struct Row {
  std::string name;
  Diagnosis diagnosis;
  Action action;
  Lever lever;
  std::string validation_reason;
};

TEST(Decide, EachClassGetsTheFirstActionOfItsRow) {
  Failure ambiguous = Fact();
  ambiguous.contradicts = "other";
  Failure plumbing_fact = Fact();
  Failure no_answer = Tool();
  no_answer.value.feedback = {};
  no_answer.candidate = PatchKind::kNone;
  const std::vector<Row> rows = {
      {"fact", Of(Fact(), kKnowledge), Action::kPatchKnowledge, Lever::kText, "failure"},
      {"skill", Of(Rule(), kKnowledge), Action::kPatchSkill, Lever::kText, "failure"},
      {"prompt", Of(Rule(PatchKind::kPrompt), kKnowledge), Action::kPatchPrompt, Lever::kText,
       "failure"},
      {"trigger", Of(Rule(), kTriggerMiss), Action::kPatchTrigger, Lever::kText, "failure"},
      {"over-specific", Of(Rule(), kOverSpecific), Action::kPatchSkill, Lever::kText, "failure"},
      {"plumbing", Of(Tool(), kPlumbing), Action::kPatchTool, Lever::kText, "failure"},
      {"plumbing without a tool", Of(plumbing_fact, kPlumbing), Action::kAbstain, Lever::kNone, ""},
      {"adherence", Of(Rule(), kAdherence), Action::kFeedLora, Lever::kWeights, "failure"},
      {"unreliable", Of(Tool(), kUnreliable), Action::kFeedLora, Lever::kWeights, "failure"},
      {"absent with teacher", Of(Tool(), kAbsent), Action::kFeedLora, Lever::kWeights, "failure"},
      {"absent without teacher", Of(no_answer, {.p0 = {0, 1}, .pk = {0, 5}}), Action::kAbstain,
       Lever::kNone, ""},
      {"wrong verifier", Of(Fact(), kVerifierWrong), Action::kAbstain, Lever::kNone,
       "verifier_disputed"},
      {"ambiguous", Of(ambiguous, {.gold = {1, 1}}), Action::kAbstain, Lever::kNone, "ambiguous"},
      {"passes now", Of(Fact(), kPasses), Action::kAbstain, Lever::kNone, "failure"},
      {"undetermined", Of(Fact(), {.gold = {1, 1}}), Action::kValidationCase, Lever::kNone,
       "failure"},
  };
  for (const Row& row : rows) {
    SCOPED_TRACE(row.name);
    const Decision decision = Decide(row.diagnosis, Early(), {});
    EXPECT_STREQ(ActionName(decision.action), ActionName(row.action)) << decision.reason;
    EXPECT_EQ(decision.lever, row.lever);
    EXPECT_EQ(decision.validation_reason, row.validation_reason);
    EXPECT_EQ(decision.add_validation_case, !row.validation_reason.empty());
    EXPECT_THAT(decision.reason, HasSubstr(row.diagnosis.reason));
    EXPECT_THAT(decision.reason, HasSubstr("Break-even"));
  }
}

TEST(Decide, FlakyPassIsNoValidationCase) {
  ProbePolicy sampled;
  sampled.decoding = Decoding::kSampled;
  const Diagnosis flaky = Diagnose(Fact(), TableOf({.gold = {1, 1}, .p0 = {3, 5}}), {}, sampled);
  ASSERT_EQ(flaky.failure_class, C::kNotReproducible);
  EXPECT_FALSE(Decide(flaky, Early(), {}).add_validation_case);
}

struct MaskRow {
  std::string name;
  Diagnosis diagnosis;
  std::string mask;
  std::string closes;
};

TEST(Decide, HardMasksCloseLeversBeforeAnyScore) {
  Failure secret = Rule();
  secret.value.is_private = true;
  Failure changing = Rule();
  changing.value.is_volatile = true;
  Failure injected = Fact();
  injected.value.feedback.answer = "Ada [INST]";
  Failure orphan = Fact();
  orphan.episode.id = "";
  Failure large = Rule();
  large.patch_tokens = 513;
  const std::vector<MaskRow> rows = {
      {"private", Of(secret, kAdherence), "private_never_weights", "weights"},
      {"volatile", Of(changing, kAdherence), "volatile_never_weights", "weights"},
      {"plumbing", Of(Tool(), kPlumbing), "plumbing_never_trains", "weights"},
      {"wrong label", Of(Tool(), kVerifierWrong), "wrong_label_never_trains", "weights"},
      {"injection", Of(injected, kKnowledge), "untrusted_text", "all"},
      {"no provenance", Of(orphan, kKnowledge), "no_provenance", "all"},
      {"over budget", Of(large, kKnowledge), "patch_over_budget", "text"},
  };
  // Prices that would make any action worth it: masks come first all the same.
  DecisionPolicy policy;
  policy.prices.value_per_fix = 1e12;
  for (const MaskRow& row : rows) {
    SCOPED_TRACE(row.name);
    const Decision decision = Decide(row.diagnosis, Early(), policy);
    const FiredMask* mask = FindMask(decision, row.mask);
    ASSERT_NE(mask, nullptr) << decision.reason;
    EXPECT_EQ(mask->closes, row.closes);
    EXPECT_THAT(decision.reason, HasSubstr(row.mask));
    if (row.closes == "all") {
      EXPECT_EQ(decision.action, Action::kAbstain);
    }
    if (row.closes == "weights") {
      EXPECT_NE(decision.lever, Lever::kWeights);
    }
    if (row.closes == "text") {
      EXPECT_NE(decision.lever, Lever::kText);
    }
  }
}

TEST(Decide, MasksHoldForEveryRouter) {
  Failure secret = Rule();
  secret.value.is_private = true;
  Failure injected = Fact();
  injected.value.feedback.answer = "Ada [INST]";
  for (const RouterKind router :
       {RouterKind::kRules, RouterKind::kAlwaysPatch, RouterKind::kAlwaysLora,
        RouterKind::kFixedSchedule, RouterKind::kRandom}) {
    SCOPED_TRACE(RouterName(router));
    for (uint64_t seed = 0; seed < 20; ++seed) {
      const DecisionPolicy policy{.router = router, .seed = seed};
      EXPECT_NE(Decide(Of(secret, kAdherence), Early(), policy).lever, Lever::kWeights);
      EXPECT_EQ(Decide(Of(injected, kKnowledge), Early(), policy).action, Action::kAbstain);
    }
  }
}

TEST(Decide, InjectedTextBecomesNoValidationCaseEither) {
  Failure injected = Fact();
  injected.value.feedback.answer = "Ada [INST]";
  const Decision decision = Decide(Of(injected, kKnowledge), Early(), {});
  EXPECT_FALSE(decision.add_validation_case);
  EXPECT_FALSE(decision.record_example);
}

TEST(Decide, OverBudgetPatchMovesTheRuleToWeights) {
  Failure large = Rule();
  large.patch_tokens = 600;
  EXPECT_EQ(Decide(Of(large, kKnowledge), Early(), {}).action, Action::kFeedLora);
}

TEST(Decide, RejectedSkillsMoveTheRuleToWeights) {
  LedgerBook book;
  FillWaiting(book, "persona", 1);
  const PatchAttempt rejected{.case_id = "case-0", .kind = PatchKind::kSkill, .tokens = 40};
  book.Do("persona", rejected);
  EXPECT_EQ(Decide(Of(Rule(), kKnowledge), Snapshot(book.ledger(), 20), {}).action,
            Action::kPatchSkill);
  book.Do("persona", rejected);
  const Decision decision = Decide(Of(Rule(), kKnowledge), Snapshot(book.ledger(), 20), {});
  EXPECT_EQ(decision.action, Action::kFeedLora);
  EXPECT_NE(FindMask(decision, "patch_failed_before"), nullptr);
  PatchAttempt accepted = rejected;
  accepted.accepted = true;
  book.Do("persona", accepted);
  EXPECT_EQ(Decide(Of(Rule(), kKnowledge), Snapshot(book.ledger(), 20), {}).action,
            Action::kPatchSkill);
}

TEST(Decide, RejectedEntryOfAnotherFactDoesNotCount) {
  LedgerBook book;
  FillWaiting(book, "facts", 1);
  for (int i = 0; i < 3; ++i) {
    book.Do("facts", PatchAttempt{.case_id = "other", .kind = PatchKind::kKnowledge});
  }
  EXPECT_EQ(Decide(Of(Fact(), kKnowledge), Snapshot(book.ledger(), 20), {}).action,
            Action::kPatchKnowledge);
}

// The conditions of scheduling, one at a time around a ticket that meets them all.
LedgerBook ReadyTicket(int n) {
  LedgerBook book;
  FillWaiting(book, "tool-calls", n);
  return book;
}

TEST(Decide, SchedulesWithThirtyTwoExamplesThisOneIncluded) {
  const LedgerBook waiting = ReadyTicket(30);
  const LedgerBook ready = ReadyTicket(31);
  const Decision feed = Decide(Of(Tool(), kAbsent), Snapshot(waiting.ledger(), 100), {});
  EXPECT_EQ(feed.action, Action::kFeedLora);
  ASSERT_NE(FindMask(feed, "min_examples"), nullptr);
  EXPECT_THAT(FindMask(feed, "min_examples")->why,
              HasSubstr("31 verified unique examples, needs 32"));
  const Decision schedule = Decide(Of(Tool(), kAbsent), Snapshot(ready.ledger(), 100), {});
  EXPECT_EQ(schedule.action, Action::kScheduleLora) << schedule.reason;
  EXPECT_TRUE(schedule.masks.empty());
}

TEST(Decide, KnownExampleIsNotCountedTwice) {
  LedgerBook book = ReadyTicket(31);
  Failure again = Tool();
  again.value.id = "case-3";
  EXPECT_EQ(Decide(Of(again, kAbsent), Snapshot(book.ledger(), 100), {}).action, Action::kFeedLora);
}

TEST(Decide, OneSubIntentIsNotEnough) {
  LedgerBook book;
  book.Go("tool-calls", {TicketState::kOpen});
  for (int i = 0; i < 40; ++i) {
    book.Do("tool-calls", testing::ProbeOf(i, C::kAbsentCapability, i >= 5));
    VerifiedExample example = ExampleOf(i);
    example.sub_intent = "get_weather";
    book.Do("tool-calls", example);
  }
  const Decision decision = Decide(Of(Tool(), kAbsent), Snapshot(book.ledger(), 100), {});
  EXPECT_EQ(decision.action, Action::kFeedLora);
  EXPECT_NE(FindMask(decision, "min_sub_intents"), nullptr);
}

TEST(Decide, VerifierNoiseOverFivePercentBlocksTraining) {
  LedgerBook book = ReadyTicket(38);
  ProbeRecord refused = testing::ProbeOf(100, C::kVerifierWrong);
  refused.gold_refused = true;
  book.Do("tool-calls", refused);
  book.Do("tool-calls", refused);  // 2 of 40
  EXPECT_EQ(Decide(Of(Tool(), kAbsent), Snapshot(book.ledger(), 100), {}).action,
            Action::kScheduleLora);
  book.Do("tool-calls", refused);  // 3 of 41
  const Decision decision = Decide(Of(Tool(), kAbsent), Snapshot(book.ledger(), 100), {});
  EXPECT_EQ(decision.action, Action::kFeedLora);
  ASSERT_NE(FindMask(decision, "verifier_noise"), nullptr);
  EXPECT_THAT(FindMask(decision, "verifier_noise")->why, HasSubstr("3 of 41"));
}

TEST(Decide, TrainingNeedsAFailingPatchOnRecord) {
  TicketSummary ticket = Snapshot(ReadyTicket(40).ledger(), 100).tickets[0];
  EXPECT_TRUE(TrainingMasks(ticket, 3, {}).empty());  // measured: forced patch 0/5
  ticket.pp_trials = 0;
  ASSERT_EQ(TrainingMasks(ticket, 3, {}).size(), 1u);
  EXPECT_EQ(TrainingMasks(ticket, 3, {})[0].rule, "no_failing_patch_on_record");
  ticket.pp_trials = 5;
  ticket.pp_successes = 4;
  EXPECT_EQ(TrainingMasks(ticket, 3, {}).size(), 1u);
  ticket.patch_attempts.push_back({.kind = PatchKind::kSkill, .tokens = 40, .accepted = true});
  EXPECT_EQ(TrainingMasks(ticket, 3, {}).size(), 1u);
  ticket.patch_attempts.push_back({.kind = PatchKind::kSkill, .tokens = 40, .accepted = false});
  EXPECT_TRUE(TrainingMasks(ticket, 3, {}).empty());
  ticket.patch_attempts = {{.kind = PatchKind::kSkill, .tokens = 600, .accepted = true}};
  EXPECT_TRUE(TrainingMasks(ticket, 3, {}).empty());
  ticket.crashes_in_row = 3;
  EXPECT_EQ(TrainingMasks(ticket, 3, {})[0].rule, "training_crashed");
}

TEST(Decide, RareFailureIsNotWorthAPatch) {
  const Decision decision = Decide(Of(Fact(), kKnowledge), {.requests_seen = 100000}, {});
  EXPECT_EQ(decision.action, Action::kAbstain);
  EXPECT_LT(decision.numbers.at("u_text"), 0);
  EXPECT_THAT(decision.reason, HasSubstr("costs more than it brings"));
}

TEST(Decide, FeedingATicketIsFreeButSchedulingMustPay) {
  const Decision rare = Decide(Of(Tool(), kAbsent), {.requests_seen = 100000}, {});
  EXPECT_LT(rare.numbers.at("u_weights"), 0);
  EXPECT_EQ(rare.action, Action::kFeedLora);
  const LedgerBook ready = ReadyTicket(40);
  const Decision full = Decide(Of(Tool(), kAbsent), Snapshot(ready.ledger(), 10000000), {});
  EXPECT_LT(full.numbers.at("u_weights"), 0);
  EXPECT_EQ(full.action, Action::kAbstain);
}

TEST(Decide, BreakEvenFollowsTheFormula) {
  const Decision decision = Decide(Of(Tool(), kAbsent), Early(), {});
  // 32 examples x 200 tokens x 4 epochs, a trained token at 3, a patch of 40 tokens.
  EXPECT_DOUBLE_EQ(decision.numbers.at("train_tokens"), 32 * 200 * 4);
  EXPECT_DOUBLE_EQ(decision.numbers.at("break_even_requests"), 3.0 * 32 * 200 * 4 / 40);
  EXPECT_THAT(decision.reason, HasSubstr("after 1920 requests"));
  DecisionPolicy cached;
  cached.prices.prefix_cache_hit = 0.9;
  EXPECT_NEAR(Decide(Of(Tool(), kAbsent), Early(), cached).numbers.at("break_even_requests"), 19200,
              1e-6);
}

TEST(Decide, UtilityFollowsTheFormula) {
  const Decision decision = Decide(Of(Fact(), kKnowledge), {.requests_seen = 18}, {});
  const double share = 2.0 / 20;
  const double n = 10000 * share;
  const double p = (2.0 / 3 + 4.0 / 5) / 2;
  const double expected =
      n * 2000 * p - n * 40 - n * 0.002 * 4000 - (500 + 5000) - 16 * share * 2000;
  EXPECT_NEAR(decision.numbers.at("u_text"), expected, 1e-6);
}

TEST(Decide, VolatileFactIsWorthLess) {
  Failure changing = Fact();
  changing.value.is_volatile = true;
  const Decision stable = Decide(Of(Fact(), kKnowledge), Early(), {});
  const Decision moving = Decide(Of(changing, kKnowledge), Early(), {});
  EXPECT_EQ(moving.action, Action::kPatchKnowledge);
  EXPECT_LT(moving.numbers.at("u_text"), stable.numbers.at("u_text"));
  EXPECT_NEAR(moving.numbers.at("validity"), (1 - std::exp2(-5)) / (5 * std::log(2.0)), 1e-12);
  EXPECT_FALSE(moving.record_example);
}

TEST(Decide, GateOutcomesReplaceThePrior) {
  LedgerBook book = ReadyTicket(3);
  book.Go("tool-calls", {TicketState::kQueued, TicketState::kTraining});
  book.Do("tool-calls", TrainingAttempt{.completed = true, .num_examples = 3, .adapter = "a1"});
  book.Go("tool-calls", {TicketState::kGated});
  book.Do("tool-calls", GateRecord{.adapter = "a1", .result = GateResult::kReject});
  const auto fix = [&] {
    return Decide(Of(Tool(), kAbsent), Snapshot(book.ledger(), 20), {}).numbers.at("p_fix_weights");
  };
  EXPECT_DOUBLE_EQ(fix(), 0.2);
  book.Do("tool-calls", GateRecord{.adapter = "a1", .result = GateResult::kAccept, .gain = 0.55});
  EXPECT_DOUBLE_EQ(fix(), 0.55);
}

TEST(Decide, AlternativesAreOrderedAndHoldAbstain) {
  const Decision decision = Decide(Of(Fact(), kKnowledge), Early(), {});
  ASSERT_EQ(decision.alternatives.size(), 3u);
  EXPECT_GE(decision.alternatives[0].utility, decision.alternatives[1].utility);
  EXPECT_GE(decision.alternatives[1].utility, decision.alternatives[2].utility);
  EXPECT_TRUE(std::any_of(decision.alternatives.begin(), decision.alternatives.end(),
                          [](const Alternative& a) { return a.action == Action::kAbstain; }));
}

TEST(Decide, RoutersAreWhatTheirNamesSay) {
  const auto decide = [](RouterKind router, const Diagnosis& d, const LedgerSnapshot& snapshot) {
    return Decide(d, snapshot, {.router = router}).action;
  };
  EXPECT_EQ(decide(RouterKind::kAlwaysPatch, Of(Tool(), kAbsent), Early()), Action::kPatchSkill);
  EXPECT_EQ(decide(RouterKind::kAlwaysLora, Of(Fact(), kKnowledge), Early()), Action::kFeedLora);
  const LedgerBook ready = ReadyTicket(40);
  const LedgerSnapshot snapshot = Snapshot(ready.ledger(), 100);
  EXPECT_EQ(decide(RouterKind::kAlwaysLora, Of(Tool(), kAbsent), snapshot), Action::kScheduleLora);
  EXPECT_EQ(decide(RouterKind::kFixedSchedule, Of(Tool(), kAbsent), snapshot),
            Action::kScheduleLora);
  EXPECT_EQ(decide(RouterKind::kFixedSchedule, Of(Tool(), kAbsent), Early()), Action::kPatchSkill);
}

TEST(Decide, RandomRouterIsSeededAndReachesEveryOpenAction) {
  std::map<Action, int> seen;
  for (uint64_t seed = 0; seed < 60; ++seed) {
    const DecisionPolicy policy{.router = RouterKind::kRandom, .seed = seed};
    const Diagnosis d = Of(Rule(), kKnowledge);
    const Decision decision = Decide(d, Early(), policy);
    EXPECT_EQ(decision.action, Decide(d, Early(), policy).action);
    ++seen[decision.action];
  }
  EXPECT_EQ(seen.size(), 3u);
  for (const auto& [action, count] : seen) EXPECT_GT(count, 8) << ActionName(action);
}

TEST(Decide, SameInputGivesTheSameDecision) {
  const LedgerBook book = ReadyTicket(10);
  const LedgerSnapshot snapshot = Snapshot(book.ledger(), 40);
  const Json once = DecisionToJson(Decide(Of(Tool(), kAbsent), snapshot, {}));
  EXPECT_EQ(once, DecisionToJson(Decide(Of(Tool(), kAbsent), snapshot, {})));
  EXPECT_EQ(once.at("action"), "feed_lora");
}

TEST(ParseRouter, KnowsItsWords) {
  for (const RouterKind router :
       {RouterKind::kRules, RouterKind::kAlwaysPatch, RouterKind::kAlwaysLora,
        RouterKind::kFixedSchedule, RouterKind::kRandom}) {
    ASSERT_OK_AND_ASSIGN(const RouterKind parsed, ParseRouter(RouterName(router)));
    EXPECT_EQ(parsed, router);
  }
  EXPECT_THAT(ParseRouter("oracle"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("always-lora")));
}

TEST(ReviewTicket, RevertsOnlyWhenTheFieldIsClearlyWorse) {
  const TicketSummary ticket;
  FieldCounts field{.requests = 50, .successes = 20, .requests_before = 50, .successes_before = 45};
  EXPECT_EQ(ReviewTicket(ticket, 100, field, {}).action, Action::kRevert);
  field.successes = 43;
  EXPECT_EQ(ReviewTicket(ticket, 100, field, {}).action, Action::kAbstain);
  EXPECT_EQ(ReviewTicket(ticket, 100, {}, {}).action, Action::kAbstain);
}

TEST(ReviewTicket, ConsolidatesPatchesThatCostMoreThanTraining) {
  TicketSummary ticket = Snapshot(ReadyTicket(40).ledger(), 100).tickets[0];
  ticket.state = TicketState::kPatched;
  FieldCounts field{.patch_tokens_per_request = 300};
  EXPECT_EQ(ReviewTicket(ticket, 100, field, {}).action, Action::kConsolidate);
  field.holds_private_or_volatile = true;
  EXPECT_EQ(ReviewTicket(ticket, 100, field, {}).action, Action::kAbstain);
  field = {.patch_tokens_per_request = 10};
  EXPECT_EQ(ReviewTicket(ticket, 100, field, {}).action, Action::kAbstain);
  field = {.patch_tokens_per_request = 300};
  ticket.state = TicketState::kWaiting;
  EXPECT_EQ(ReviewTicket(ticket, 100, field, {}).action, Action::kAbstain);
}

}  // namespace
}  // namespace evolora
