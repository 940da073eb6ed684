#include "evolora/evolver/ledger.h"

#include "cases.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "ledger_events.h"
#include "support/status_matchers.h"

namespace evolora {
namespace {

using S = TicketState;
using testing::ExampleOf;
using testing::FactCase;
using testing::FillWaiting;
using ::testing::HasSubstr;
using testing::IsOk;
using testing::LedgerBook;
using testing::ProbeOf;
using testing::StatusIs;
using testing::ToolCase;

constexpr absl::StatusCode kPrecondition = absl::StatusCode::kFailedPrecondition;
constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;

TEST(Ledger, TransitionTableIsExactlyTheDocumentedOne) {
  const std::map<S, std::vector<S>> allowed = {
      {S::kOpen, {S::kReproduced, S::kAbstained}},
      {S::kReproduced, {S::kPatched, S::kWaiting, S::kAbstained}},
      {S::kPatched, {S::kWaiting, S::kWatched, S::kReverted, S::kAbstained}},
      {S::kWaiting, {S::kPatched, S::kQueued, S::kAbstained}},
      {S::kQueued, {S::kTraining, S::kWaiting, S::kAbstained}},
      {S::kTraining, {S::kGated, S::kQueued, S::kAbstained}},
      {S::kGated, {S::kPromoted, S::kWaiting, S::kAbstained}},
      {S::kPromoted, {S::kWatched, S::kReverted}},
      {S::kWatched, {S::kWaiting, S::kPatched, S::kReverted}},
      {S::kReverted, {S::kReproduced, S::kWaiting, S::kAbstained}},
      {S::kAbstained, {S::kReproduced, S::kWaiting}},
  };
  for (int from = 0; from < 11; ++from) {
    for (int to = 0; to < 11; ++to) {
      const auto& row = allowed.at(static_cast<S>(from));
      const bool expected = std::find(row.begin(), row.end(), static_cast<S>(to)) != row.end();
      EXPECT_EQ(CanTransition(static_cast<S>(from), static_cast<S>(to)), expected)
          << TicketStateName(static_cast<S>(from)) << " -> " << TicketStateName(static_cast<S>(to));
    }
  }
}

TEST(Ledger, WholeLifeOfATrainedTicket) {
  LedgerBook book;
  FillWaiting(book, "tools", 3);
  book.Go("tools", {S::kQueued, S::kTraining});
  book.Do("tools", TrainingAttempt{.completed = true, .num_examples = 3, .adapter = "a1"});
  book.Go("tools", {S::kGated});
  book.Do("tools", GateRecord{.adapter = "a1", .result = GateResult::kAccept, .gain = 0.4});
  book.Go("tools", {S::kPromoted, S::kWatched, S::kReverted, S::kAbstained});
  EXPECT_EQ(book.ticket("tools").state, S::kAbstained);
  EXPECT_EQ(book.ticket("tools").id, TicketId("tools"));
}

TEST(Ledger, RefusesTransitionsThatDoNotExist) {
  LedgerBook book;
  book.Go("tools", {S::kOpen});
  EXPECT_THAT(book.Try("tools", Transition{.to = S::kTraining}),
              StatusIs(kPrecondition, HasSubstr("no transition open -> training")));
  EXPECT_THAT(book.Try("tools", Transition{.to = S::kOpen}),
              StatusIs(kPrecondition, HasSubstr("is open already")));
  EXPECT_THAT(book.Try("other", Transition{.to = S::kReproduced}),
              StatusIs(kPrecondition, HasSubstr("no ticket for cluster other")));
  EXPECT_EQ(book.events().size(), 1u);
}

TEST(Ledger, TransitionsDemandTheirEvidence) {
  LedgerBook book;
  book.Go("c", {S::kOpen});
  EXPECT_THAT(book.Try("c", Transition{.to = S::kReproduced}),
              StatusIs(kPrecondition, HasSubstr("needs a probe record")));
  book.Do("c", ProbeOf(0, FailureClass::kMissingProcedure));
  book.Go("c", {S::kReproduced});
  EXPECT_THAT(book.Try("c", Transition{.to = S::kPatched}),
              StatusIs(kPrecondition, HasSubstr("needs an accepted patch attempt")));
  book.Do("c", PatchAttempt{.case_id = "case-0", .kind = PatchKind::kSkill});
  EXPECT_THAT(book.Try("c", Transition{.to = S::kPatched}),
              StatusIs(kPrecondition, HasSubstr("accepted")));
  book.Go("c", {S::kWaiting});
  EXPECT_THAT(book.Try("c", Transition{.to = S::kQueued}),
              StatusIs(kPrecondition, HasSubstr("needs a verified example")));
  book.Do("c", ExampleOf(0));
  book.Go("c", {S::kQueued, S::kTraining});
  EXPECT_THAT(book.Try("c", Transition{.to = S::kGated}),
              StatusIs(kPrecondition, HasSubstr("needs a completed training")));
  book.Do("c", TrainingAttempt{.completed = true, .num_examples = 1, .adapter = "a1"});
  book.Go("c", {S::kGated});
  EXPECT_THAT(book.Try("c", Transition{.to = S::kPromoted}),
              StatusIs(kPrecondition, HasSubstr("needs an accepting gate outcome")));
  book.Do("c", GateRecord{.adapter = "other", .result = GateResult::kAccept});
  EXPECT_THAT(book.Try("c", Transition{.to = S::kPromoted}),
              StatusIs(kPrecondition, HasSubstr("of the last trained adapter")));
  book.Do("c", GateRecord{.adapter = "a1", .result = GateResult::kInconclusive});
  EXPECT_THAT(book.Try("c", Transition{.to = S::kPromoted}),
              StatusIs(kPrecondition, HasSubstr("")));
  book.Do("c", GateRecord{.adapter = "a1", .result = GateResult::kAccept});
  book.Go("c", {S::kPromoted});
}

TEST(Ledger, CrashedTrainingIsRetriedAtMostThreeTimes) {
  LedgerBook book;
  FillWaiting(book, "c", 2);
  for (int crash = 1; crash <= 3; ++crash) {
    book.Go("c", {S::kQueued, S::kTraining});
    book.Do("c", TrainingAttempt{.error = "out of memory"});
    if (crash < 3) book.Go("c", {S::kQueued, S::kWaiting});
  }
  EXPECT_THAT(book.Try("c", Transition{.to = S::kQueued}),
              StatusIs(kPrecondition, HasSubstr("3 in a row, limit 3")));
  book.Go("c", {S::kAbstained});
  EXPECT_EQ(Snapshot(book.ledger(), 10).tickets[0].crashes_in_row, 3);
}

TEST(Ledger, CompletedTrainingForgivesEarlierCrashes) {
  LedgerBook book;
  FillWaiting(book, "c", 2);
  book.Go("c", {S::kQueued, S::kTraining});
  book.Do("c", TrainingAttempt{.error = "killed"});
  book.Go("c", {S::kQueued, S::kTraining});
  book.Do("c", TrainingAttempt{.completed = true, .num_examples = 2, .adapter = "a1"});
  const TicketSummary summary = Snapshot(book.ledger(), 10).tickets[0];
  EXPECT_EQ(summary.crashes_in_row, 0);
  EXPECT_EQ(summary.trained_examples, 2);
}

TEST(Ledger, OutcomesBelongToTheirState) {
  LedgerBook book;
  FillWaiting(book, "c", 1);
  EXPECT_THAT(book.Try("c", TrainingAttempt{}),
              StatusIs(kPrecondition, HasSubstr("belongs to training, the ticket is waiting")));
  EXPECT_THAT(book.Try("c", GateRecord{.adapter = "a"}),
              StatusIs(kPrecondition, HasSubstr("belongs to gated")));
}

TEST(Ledger, RefusesMalformedEvents) {
  LedgerBook book;
  EXPECT_THAT(book.Try("", Transition{}), StatusIs(kInvalid, HasSubstr("empty cluster")));
  EXPECT_THAT(book.Try("c", Transition{}, {}), StatusIs(kInvalid, HasSubstr("names no evidence")));
  EXPECT_THAT(book.Try("c", Transition{}, {"a", ""}), StatusIs(kInvalid, HasSubstr("no evidence")));
  book.Go("c", {S::kOpen});
  EXPECT_THAT(book.Try("c", ProbeRecord{}), StatusIs(kInvalid, HasSubstr("without a case id")));
  ProbeRecord bad = ProbeOf(0, FailureClass::kAdherence);
  bad.pp_successes = 2;
  EXPECT_THAT(book.Try("c", bad), StatusIs(kInvalid, HasSubstr("pp 2 of 1")));
  VerifiedExample example = ExampleOf(0);
  example.near_hash = "short";
  EXPECT_THAT(book.Try("c", example), StatusIs(kInvalid, HasSubstr("not SHA-256")));
  EXPECT_THAT(book.Try("c", PatchAttempt{.case_id = "x"}), StatusIs(kInvalid, HasSubstr("none")));
}

TEST(Ledger, SequenceHasNoGapsAndNoRepeats) {
  LedgerBook book;
  book.Go("c", {S::kOpen});
  TicketEvent event{.seq = 3, .cluster = "c", .evidence = {"e"}, .payload = ExampleOf(0)};
  EXPECT_THAT(ApplyEvent(book.ledger(), event),
              StatusIs(kPrecondition, HasSubstr("event 3 after event 1")));
  event.seq = 1;
  EXPECT_THAT(ApplyEvent(book.ledger(), event),
              StatusIs(kPrecondition, HasSubstr("event 1 after")));
}

TEST(Ledger, ExamplesAreUniqueByContentAndNearContent) {
  LedgerBook book;
  FillWaiting(book, "c", 2);
  book.Do("c", ExampleOf(1));
  VerifiedExample near = ExampleOf(7);
  near.near_hash = ExampleOf(0).near_hash;
  book.Do("c", near);
  EXPECT_EQ(book.ticket("c").examples.size(), 2u);
  EXPECT_EQ(book.ticket("c").num_duplicates, 2);
}

TEST(Ledger, ReplayOfTheEventsGivesTheSameLedger) {
  LedgerBook book;
  FillWaiting(book, "b", 3);
  FillWaiting(book, "a", 2);
  ASSERT_OK_AND_ASSIGN(const Ledger again, ReplayEvents({}, book.events()));
  EXPECT_EQ(again.last_seq, book.ledger().last_seq);
  ASSERT_EQ(again.tickets.size(), 2u);
  EXPECT_EQ(again.tickets.at("b").examples.size(), 3u);
  const LedgerSnapshot snapshot = Snapshot(again, 9);
  EXPECT_EQ(snapshot.tickets[0].cluster, "a");
  EXPECT_EQ(snapshot.tickets[1].cluster, "b");
}

TEST(Ledger, EventsRoundTripThroughJson) {
  LedgerBook book;
  FillWaiting(book, "c", 1);
  book.Do("c", PatchAttempt{.case_id = "case-0",
                            .kind = PatchKind::kSkill,
                            .tokens = 40,
                            .rate_before = 0.1,
                            .rate_after = 0.25});
  book.Go("c", {S::kQueued, S::kTraining});
  book.Do("c", TrainingAttempt{.completed = true, .num_examples = 1, .adapter = "a1"});
  book.Go("c", {S::kGated});
  book.Do("c",
          GateRecord{.adapter = "a1", .result = GateResult::kReject, .gain = 0.1, .loss = 0.2});
  for (const TicketEvent& event : book.events()) {
    const std::string text = CanonicalJson(TicketEventToJson(event));
    ASSERT_OK_AND_ASSIGN(const Json json, ParseJson(text));
    ASSERT_OK_AND_ASSIGN(const TicketEvent back, TicketEventFromJson(json));
    EXPECT_EQ(CanonicalJson(TicketEventToJson(back)), text);
    EXPECT_EQ(back.payload.index(), event.payload.index());
  }
}

TEST(Ledger, EventJsonIsStrict) {
  const TicketEvent event{.seq = 1, .cluster = "c", .evidence = {"e"}, .payload = ExampleOf(0)};
  const Json good = TicketEventToJson(event);
  EXPECT_THAT(TicketEventFromJson(good), IsOk());
  Json bad = good;
  bad["surprise"] = 1;
  EXPECT_THAT(TicketEventFromJson(bad), StatusIs(kInvalid, HasSubstr("surprise")));
  bad = good;
  bad["source"] = "rumour";
  EXPECT_THAT(TicketEventFromJson(bad), StatusIs(kInvalid, HasSubstr("rumour")));
  bad = good;
  bad["tokens"] = -1;
  EXPECT_THAT(TicketEventFromJson(bad), StatusIs(kInvalid, HasSubstr("tokens")));
  bad = good;
  bad["type"] = "other";
  EXPECT_THAT(TicketEventFromJson(bad), StatusIs(kInvalid, HasSubstr("other")));
  bad = good;
  bad.erase("near_hash");
  EXPECT_THAT(TicketEventFromJson(bad), StatusIs(kInvalid, HasSubstr("near_hash")));
  EXPECT_THAT(TicketEventFromJson(Json::array()), StatusIs(kInvalid, HasSubstr("")));
}

TEST(Snapshot, SumsProbesExamplesAndNoise) {
  LedgerBook book;
  FillWaiting(book, "c", 6);
  ProbeRecord refused = ProbeOf(0, FailureClass::kVerifierWrong);
  refused.gold_refused = true;
  book.Do("c", refused);  // case-0 again
  const LedgerSnapshot snapshot = Snapshot(book.ledger(), 50);
  const TicketSummary* ticket = FindTicket(snapshot, "c");
  ASSERT_NE(ticket, nullptr);
  EXPECT_EQ(FindTicket(snapshot, "d"), nullptr);
  EXPECT_EQ(ticket->num_failures, 6);
  EXPECT_EQ(ticket->gold_checked, 7);
  EXPECT_EQ(ticket->gold_refused, 1);
  EXPECT_EQ(ticket->pp_trials, 6);
  EXPECT_EQ(ticket->num_sub_intents, 4);
  EXPECT_DOUBLE_EQ(ticket->mean_example_tokens, 200);
  EXPECT_EQ(ticket->failure_class, FailureClass::kAbsentCapability);
  EXPECT_EQ(ticket->evidence.probed.at(FailureClass::kAbsentCapability), 5);  // one inherited
}

TEST(Snapshot, PromotionMakesEarlierProbesOutOfDate) {
  LedgerBook book;
  FillWaiting(book, "c", 6);
  book.Go("c", {S::kQueued, S::kTraining});
  book.Do("c", TrainingAttempt{.completed = true, .num_examples = 6, .adapter = "a1"});
  book.Go("c", {S::kGated});
  book.Do("c", GateRecord{.adapter = "a1", .result = GateResult::kAccept, .gain = 0.5});
  EXPECT_FALSE(EvidenceOf(book.ledger(), "c").probed.empty());
  book.Go("c", {S::kPromoted});
  EXPECT_TRUE(EvidenceOf(book.ledger(), "c").probed.empty());
  EXPECT_EQ(Snapshot(book.ledger(), 50).tickets[0].pp_trials, 0);
  EXPECT_EQ(Snapshot(book.ledger(), 50).tickets[0].num_failures, 6);
  EXPECT_TRUE(EvidenceOf(book.ledger(), "unknown").probed.empty());
}

TEST(MakeExample, HashesAndSubIntent) {
  const Case tool = ToolCase("t1", "Weather in Rome", "get_weather");
  ASSERT_OK_AND_ASSIGN(const VerifiedExample a,
                       MakeExample(tool, tool.feedback.answer, ExampleSource::kTeacherAnswer, 12));
  EXPECT_EQ(a.sub_intent, "get_weather");
  EXPECT_EQ(a.tokens, 12);
  Case louder = tool;
  louder.messages[1].content = "WEATHER in Rome!";
  ASSERT_OK_AND_ASSIGN(const VerifiedExample b,
                       MakeExample(louder, tool.feedback.answer, ExampleSource::kTeacherAnswer, 0));
  EXPECT_NE(a.content_hash, b.content_hash);
  EXPECT_EQ(a.near_hash, b.near_hash);
  const Case fact = FactCase("f", "Who leads Zo?", "Ada.");
  ASSERT_OK_AND_ASSIGN(const VerifiedExample c,
                       MakeExample(fact, "Ada.", ExampleSource::kOwnSample, 0));
  EXPECT_EQ(c.sub_intent, "ada");
}

TEST(MakeExample, RefusesWhatMustNotReachWeights) {
  const auto make = [](const Case& c, const std::string& answer) {
    return MakeExample(c, answer, ExampleSource::kTeacherAnswer, 0);
  };
  Case c = FactCase("f", "Who leads Zo?", "Ada");
  EXPECT_THAT(make(c, ""), StatusIs(kInvalid, HasSubstr("no right answer")));
  EXPECT_THAT(make(c, "Ada<|im_end|>"), StatusIs(kInvalid, HasSubstr("mark")));
  c.is_volatile = true;
  EXPECT_THAT(make(c, "Ada"), StatusIs(kInvalid, HasSubstr("volatile")));
  c.is_private = true;
  EXPECT_THAT(make(c, "Ada"), StatusIs(kInvalid, HasSubstr("private")));
}

TEST(RecordOf, PoolsForcedPatchCountsAndMarksLabelNoise) {
  const Failure f = testing::FailureOf(FactCase("f", "Who?", "Ada"), PatchKind::kKnowledge);
  const ProbeRecord a = RecordOf(Diagnose(
      f, testing::TableOf({.gold = {1, 1}, .p0 = {0, 1}, .pp = {1, 1}, .pp_siblings = {2, 3}}), {},
      {}));
  EXPECT_EQ(a.pp_successes, 3);
  EXPECT_EQ(a.pp_trials, 4);
  EXPECT_FALSE(a.gold_refused);
  EXPECT_TRUE(RecordOf(Diagnose(f, testing::TableOf({.gold = {0, 1}}), {}, {})).gold_refused);
  EXPECT_FALSE(RecordOf(Diagnose(f, testing::TableOf({.gold = {0, 1, 1}}), {}, {})).gold_refused);
}

}  // namespace
}  // namespace evolora
