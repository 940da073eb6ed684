#include "evolora/evolver/train_when.h"

#include "cases.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "ledger_events.h"

namespace evolora {
namespace {

using testing::ExampleOf;
using testing::FillWaiting;
using ::testing::HasSubstr;
using testing::LedgerBook;
using testing::ProbeOf;

LedgerSnapshot Waiting(int n, int64_t requests_seen) {
  LedgerBook book;
  FillWaiting(book, "tools", n);
  return Snapshot(book.ledger(), requests_seen);
}

TEST(TrainWhen, NeverBelowTheMinimum) {
  for (const int64_t remaining : {0, 10, 1000}) {
    EXPECT_FALSE(TrainWhen(Waiting(31, 100), {}, {.stream_remaining = remaining}));
  }
}

TEST(TrainWhen, TrainsAtTheEndOfTheStreamWhenTheMinimumIsMet) {
  const auto plan = TrainWhen(Waiting(32, 100), {}, {.stream_remaining = 0});
  ASSERT_TRUE(plan.has_value());
  EXPECT_THAT(plan->reason, HasSubstr("at its end"));
}

TEST(TrainWhen, TrainsMidStreamWhenWaitingBringsLess) {
  const auto plan = TrainWhen(Waiting(34, 100), {}, {.stream_remaining = 800});
  ASSERT_TRUE(plan.has_value());
  EXPECT_GT(plan->numbers.at("value_now"), 0);
  EXPECT_GE(plan->numbers.at("value_now"), plan->numbers.at("value_wait"));
}

TEST(TrainWhen, WaitsWhenTheRestOfTheStreamDoesNotPayForTraining) {
  EXPECT_FALSE(TrainWhen(Waiting(34, 100), {}, {.stream_remaining = 20}));
}

TEST(TrainWhen, WaitsWhileExamplesStillArriveFast) {
  // A long stream and a flat quality curve: one more window is worth more than it delays.
  DecisionPolicy policy;
  policy.lora.quality_tau = 500;
  EXPECT_FALSE(TrainWhen(Waiting(34, 100), policy, {.stream_remaining = 5000}));
}

TEST(TrainWhen, ValueFollowsTheFormula) {
  const auto plan = TrainWhen(Waiting(40, 98), {}, {.stream_remaining = 600});
  ASSERT_TRUE(plan.has_value());
  const double l = 41.0 / 100;
  const double q = 0.4 * (1 - std::exp(-40.0 / 32));
  EXPECT_NEAR(plan->numbers.at("quality"), q, 1e-12);
  EXPECT_NEAR(plan->numbers.at("value_now"), q * l * 2000 * 600 - 3.0 * 40 * 200 * 4, 1e-6);
  const double n = 40 + 40.0 / 98 * 16;
  const double q_later = 0.4 * (1 - std::exp(-n / 32));
  EXPECT_NEAR(plan->numbers.at("value_wait"), q_later * l * 2000 * 584 - 3 * n * 200 * 4, 1e-6);
}

TEST(TrainWhen, OnlyWaitingAndQueuedTicketsTrain) {
  LedgerSnapshot snapshot = Waiting(40, 100);
  for (int state = 0; state < 11; ++state) {
    snapshot.tickets[0].state = static_cast<TicketState>(state);
    const bool may = snapshot.tickets[0].state == TicketState::kWaiting ||
                     snapshot.tickets[0].state == TicketState::kQueued;
    EXPECT_EQ(TrainWhen(snapshot, {}, {}).has_value(), may) << state;
  }
}

TEST(TrainWhen, MasksHoldAtTheEndOfTheStreamToo) {
  LedgerSnapshot snapshot = Waiting(40, 100);
  snapshot.tickets[0].gold_refused = 10;
  EXPECT_FALSE(TrainWhen(snapshot, {}, {}));
}

TEST(TrainWhen, RetrainsOnlyAfterTheExamplesGrew) {
  LedgerSnapshot snapshot = Waiting(47, 100);
  snapshot.tickets[0].trained_examples = 32;
  EXPECT_FALSE(TrainWhen(snapshot, {}, {}));
  snapshot = Waiting(48, 100);
  snapshot.tickets[0].trained_examples = 32;
  EXPECT_TRUE(TrainWhen(snapshot, {}, {}));
}

TEST(TrainWhen, TakesTheMostValuableTicket) {
  LedgerBook book;
  FillWaiting(book, "a-small", 33);
  FillWaiting(book, "b-large", 60);
  const auto plan = TrainWhen(Snapshot(book.ledger(), 200), {}, {.stream_remaining = 1000});
  ASSERT_TRUE(plan.has_value());
  EXPECT_EQ(plan->cluster, "b-large");
}

TEST(TrainWhen, PlanNamesExamplesInOrderOfArrival) {
  const auto plan = TrainWhen(Waiting(32, 100), {}, {});
  ASSERT_TRUE(plan.has_value());
  ASSERT_EQ(plan->example_case_ids.size(), 32u);
  EXPECT_EQ(plan->example_case_ids[0], "case-0");
  EXPECT_EQ(plan->example_case_ids[31], "case-31");
  EXPECT_EQ(plan->ticket, TicketId("tools"));
}

TEST(TrainWhen, DataSourceFollowsTheClass) {
  const std::map<FailureClass, DataSource> rows = {
      {FailureClass::kAbsentCapability, DataSource::kTeacherAnswers},
      {FailureClass::kUnreliable, DataSource::kOwnVerifiedSamples},
      {FailureClass::kAdherence, DataSource::kHintedSelfSamples},
      {FailureClass::kUndetermined, DataSource::kTeacherAnswers},
  };
  LedgerSnapshot snapshot = Waiting(40, 100);
  for (const auto& [failure_class, source] : rows) {
    snapshot.tickets[0].failure_class = failure_class;
    const auto plan = TrainWhen(snapshot, {}, {});
    ASSERT_TRUE(plan.has_value());
    EXPECT_EQ(plan->data_source, source) << FailureClassName(failure_class);
  }
}

TEST(TrainWhen, ScopedAdapterReplaysNoAnchorsUnscopedOneDoes) {
  StreamOutlook outlook;
  outlook.texts["tools"] = {
      .inside = {"call the weather tool for Rome", "call the weather tool for Oslo"},
      .outside = {"Who leads Zo?", "Greet Bo"}};
  const auto scoped = TrainWhen(Waiting(40, 100), {}, outlook);
  ASSERT_TRUE(scoped.has_value());
  EXPECT_TRUE(scoped->scope.disjoint);
  EXPECT_FALSE(scoped->scope.trigger.all);
  EXPECT_EQ(scoped->recipe.anchor_replay_share, 0);
  for (const std::string& text : outlook.texts["tools"].inside) {
    EXPECT_TRUE(Matches(scoped->scope.trigger, text));
  }
  for (const std::string& text : outlook.texts["tools"].outside) {
    EXPECT_FALSE(Matches(scoped->scope.trigger, text));
  }

  outlook.texts["tools"].outside.push_back("call the weather tool for Rome");
  const auto unscoped = TrainWhen(Waiting(40, 100), {}, outlook);
  ASSERT_TRUE(unscoped.has_value());
  EXPECT_TRUE(unscoped->scope.trigger.all);
  EXPECT_EQ(unscoped->recipe.anchor_replay_share, 0.25);
}

TEST(SuggestScope, FewLookAlikesDoNotForceTheClusterToBeLearnedByHeart) {
  ScopeTexts texts;
  for (int i = 0; i < 12; ++i) {
    texts.inside.push_back(absl::StrCat("Reply with one call. fn", i, "()"));
  }
  for (int i = 0; i < 39; ++i) texts.outside.push_back(absl::StrCat("Who leads town ", i, "?"));
  texts.outside.push_back("Reply with one call. broken does nothing");
  const ScopeSuggestion scope = SuggestScope(texts, 3);
  EXPECT_FALSE(scope.trigger.all);
  EXPECT_FALSE(scope.disjoint);
  EXPECT_TRUE(Matches(scope.trigger, "Reply with one call. unseen does something"));
  EXPECT_THAT(scope.reason, HasSubstr("1 of 40 others"));
}

TEST(TrainWhen, EpochsShrinkAsExamplesGrow) {
  const auto epochs = [](int n) { return TrainWhen(Waiting(n, 200), {}, {})->recipe.epochs; };
  EXPECT_EQ(epochs(32), 4);
  EXPECT_EQ(epochs(64), 4);
  EXPECT_EQ(epochs(128), 3);
  EXPECT_EQ(epochs(192), 2);
}

TEST(TrainWhen, BaselineRoutersKeepTheirSchedules) {
  EXPECT_FALSE(TrainWhen(Waiting(64, 100), {.router = RouterKind::kAlwaysPatch}, {}));
  const DecisionPolicy fixed{.router = RouterKind::kFixedSchedule};
  EXPECT_TRUE(TrainWhen(Waiting(32, 100), fixed, {.stream_remaining = 1}));
  LedgerSnapshot trained = Waiting(63, 100);
  trained.tickets[0].trained_examples = 32;
  EXPECT_FALSE(TrainWhen(trained, fixed, {.stream_remaining = 1}));
  trained = Waiting(64, 100);
  trained.tickets[0].trained_examples = 32;
  EXPECT_TRUE(TrainWhen(trained, fixed, {.stream_remaining = 1}));
}

}  // namespace
}  // namespace evolora
