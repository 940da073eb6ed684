// Five whole stories with synthetic replay counts: propose, probe, diagnose, decide, keep the
// ledger, and train when the ledger says so. The model is FakeReplays; everything else is the real
// thing.
#include <map>
#include <set>

#include "cases.h"
#include "evolora/evolver/propose.h"
#include "evolora/evolver/train_when.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "ledger_events.h"
#include "support/status_matchers.h"

namespace evolora {
namespace {

using S = TicketState;
using testing::FactCase;
using testing::FailureOf;
using testing::FakeReplays;
using testing::FindMask;
using ::testing::HasSubstr;
using testing::IsOk;
using testing::LedgerBook;
using testing::Probed;
using testing::RuleCase;
using testing::RunPlan;
using testing::ToolCase;

// One project's evolver over one stream.
class Story {
 public:
  struct Step {
    Diagnosis diagnosis;
    Decision decision;
    std::optional<Proposal> candidate;
    int64_t model_calls = 0;
  };

  explicit Story(std::vector<std::string> outside) : outside_(std::move(outside)) {}

  Step Fail(const Case& c, const FakeReplays& replays) {
    requests_seen_ += 3;  // two of three requests pass
    const std::vector<Case>& siblings = failures_[c.cluster];
    Failure failure = FailureOf(c, PatchKind::kNone, static_cast<int>(siblings.size()));
    Step step;
    const auto proposed = ProposeCandidate(failure, siblings, outside_, {}, {});
    if (proposed.ok()) {
      step.candidate = *proposed;
      failure.candidate = proposed->kind;
      failure.patch_tokens = 40;
    }
    const ClusterEvidence evidence = EvidenceOf(book.ledger(), c.cluster);
    const Probed probed = RunPlan(failure, evidence, {}, replays);
    step.model_calls = probed.table.model_calls();
    step.diagnosis = Diagnose(failure, probed.table, evidence, {});
    step.decision = Decide(step.diagnosis, Snapshot(book.ledger(), requests_seen_), policy);
    Record(c, step);
    failures_[c.cluster].push_back(c);
    return step;
  }

  std::optional<TrainingPlan> Train(int64_t remaining) const {
    StreamOutlook outlook{.stream_remaining = remaining};
    for (const auto& [cluster, cases] : failures_) {
      for (const Case& c : cases) {
        outlook.texts[cluster].inside.push_back(RequestText(c.messages));
      }
      outlook.texts[cluster].outside = outside_;
    }
    return TrainWhen(Snapshot(book.ledger(), requests_seen_), policy, outlook);
  }

  LedgerBook book;
  DecisionPolicy policy;

 private:
  void Record(const Case& c, const Step& step) {
    if (book.ledger().tickets.count(c.cluster) == 0) book.Go(c.cluster, {S::kOpen});
    book.Do(c.cluster, RecordOf(step.diagnosis));
    if (step.decision.record_example) {
      const auto example = MakeExample(c, c.feedback.answer, ExampleSource::kTeacherAnswer, 200);
      ASSERT_THAT(example, IsOk());
      book.Do(c.cluster, *example);
    }
    // Each event replaces the ledger, so the state is asked for anew.
    const auto state = [&] { return book.ticket(c.cluster).state; };
    if (state() == S::kOpen && step.decision.action != Action::kAbstain) {
      book.Go(c.cluster, {S::kReproduced});
    }
    if (step.decision.lever == Lever::kText && step.candidate.has_value()) {
      book.Do(c.cluster, PatchAttempt{.case_id = c.id,
                                      .kind = step.candidate->kind,
                                      .tokens = 40,
                                      .rate_after = 1,
                                      .accepted = true});
      if (state() == S::kReproduced) book.Go(c.cluster, {S::kPatched});
    }
    if (step.decision.lever == Lever::kWeights && state() == S::kReproduced) {
      book.Go(c.cluster, {S::kWaiting});
    }
    if (step.decision.action == Action::kScheduleLora && state() == S::kWaiting) {
      book.Go(c.cluster, {S::kQueued});
    }
  }

  std::vector<std::string> outside_;
  std::map<std::string, std::vector<Case>> failures_;
  int64_t requests_seen_ = 0;
};

const FakeReplays kPatchWorks{.po = 1, .pp = 1, .pp_siblings = 1, .pr = 1, .pr_siblings = 1};

TEST(Story, SixtyFourFactsBecomeSixtyFourEntriesAndNoTraining) {
  Story story({"pirate greeting for Bo"});
  std::set<std::string> keys;
  for (int i = 0; i < 64; ++i) {
    const Case c = FactCase(absl::StrCat("f", i), absl::StrCat("Who leads town number ", i, "?"),
                            absl::StrCat("Leader ", i));
    const Story::Step step = story.Fail(c, kPatchWorks);
    ASSERT_EQ(step.decision.action, Action::kPatchKnowledge) << i << " " << step.decision.reason;
    EXPECT_EQ(step.diagnosis.failure_class, FailureClass::kMissingKnowledge);
    EXPECT_EQ(step.diagnosis.inherited, i >= 5);
    EXPECT_EQ(step.model_calls, i < 5 ? 9 : 1);
    EXPECT_TRUE(step.decision.add_validation_case);
    keys.insert(std::get<PutKnowledge>(step.candidate->patch.ops.at(0)).entry.key);
  }
  EXPECT_EQ(keys.size(), 64u);
  EXPECT_EQ(story.book.ticket("facts").state, S::kPatched);
  // Patches work, so nothing is on record that would let weights be trained, not even at the end.
  EXPECT_FALSE(story.Train(0));
  const LedgerSnapshot snapshot = Snapshot(story.book.ledger(), 192);
  bool named = false;
  for (const FiredMask& mask : TrainingMasks(snapshot.tickets[0], 3, story.policy)) {
    named = named || mask.rule == "no_failing_patch_on_record";
  }
  EXPECT_TRUE(named);
}

TEST(Story, NinetySixToolCallsOfAnAbsentCapabilityTrainOneScopedAdapter) {
  Story story({"Who leads Zo?", "pirate greeting for Bo", "What is 5+3?"});
  std::optional<TrainingPlan> plan;
  int planned_at = -1;
  int first_scheduled = -1;
  for (int i = 0; i < 96; ++i) {
    const Case c = ToolCase(absl::StrCat("t", i), absl::StrCat("Look up item ", i, " please"),
                            absl::StrCat("tool_", i % 7));
    const Story::Step step = story.Fail(c, {});
    EXPECT_EQ(step.diagnosis.failure_class, FailureClass::kAbsentCapability) << i;
    EXPECT_EQ(step.diagnosis.inherited, i >= 5);
    EXPECT_EQ(step.model_calls, i < 5 ? 8 : 0);
    EXPECT_EQ(step.decision.lever, Lever::kWeights) << step.decision.reason;
    if (step.decision.action == Action::kScheduleLora && first_scheduled < 0) first_scheduled = i;
    if (!plan) {
      plan = story.Train(600 + 3 * (95 - i));
      planned_at = i;
    }
  }
  EXPECT_EQ(first_scheduled, 31);
  ASSERT_TRUE(plan.has_value());
  EXPECT_GE(planned_at, 31);
  EXPECT_LT(planned_at, 95) << "worth training before the stream ends";
  EXPECT_EQ(plan->data_source, DataSource::kTeacherAnswers);
  EXPECT_GE(plan->example_case_ids.size(), 32u);
  EXPECT_FALSE(plan->scope.trigger.all);
  EXPECT_TRUE(Matches(plan->scope.trigger,
                      RequestText(ToolCase("x", "Look up item 999 please", "t").messages)));
  EXPECT_FALSE(Matches(plan->scope.trigger, "Who leads Zo?"));
  EXPECT_EQ(plan->recipe.rank, 16);
  EXPECT_EQ(plan->recipe.alpha, 32);
  EXPECT_EQ(plan->recipe.anchor_replay_share, 0);

  // Trained, judged, promoted: the ticket is done and the same plan does not come again.
  story.book.Go("tool-calls", {S::kTraining});
  story.book.Do("tool-calls",
                TrainingAttempt{.completed = true, .num_examples = 96, .adapter = "a1"});
  story.book.Go("tool-calls", {S::kGated});
  story.book.Do("tool-calls",
                GateRecord{.adapter = "a1", .result = GateResult::kAccept, .gain = 0.3});
  story.book.Go("tool-calls", {S::kPromoted, S::kWatched});
  EXPECT_FALSE(story.Train(0));
}

TEST(Story, PersonaRuleBecomesASkillWithATrigger) {
  const std::vector<std::string> outside = {"Who leads Zo?", "Weather in Rome"};
  Story story(outside);
  for (int i = 0; i < 8; ++i) {
    const Case c = RuleCase(absl::StrCat("r", i), absl::StrCat("As the captain, greet guest ", i),
                            absl::StrCat("Ahoy guest ", i), "The captain greets with ahoy.");
    const Story::Step step = story.Fail(c, kPatchWorks);
    ASSERT_EQ(step.decision.action, Action::kPatchSkill) << step.decision.reason;
    EXPECT_EQ(step.diagnosis.failure_class, FailureClass::kMissingProcedure);
    const Skill& skill = std::get<PutSkill>(step.candidate->patch.ops.at(0)).skill;
    EXPECT_EQ(skill.instructions, "The captain greets with ahoy.");
    EXPECT_TRUE(Matches(skill.trigger, RequestText(c.messages)));
    for (const std::string& text : outside) EXPECT_FALSE(Matches(skill.trigger, text));
    if (i > 0) {
      EXPECT_NE(skill.example_answer, c.feedback.answer);
    }
  }
  EXPECT_FALSE(story.Train(0));
}

TEST(Story, PlumbingFaultsPatchTheToolAndNeverTrain) {
  Story story({"Who leads Zo?"});
  for (int i = 0; i < 40; ++i) {
    const Case c = ToolCase(absl::StrCat("t", i), absl::StrCat("Look up item ", i), "broken_tool");
    const Story::Step step = story.Fail(c, {.gold = 0, .gold_tool_error = true});
    EXPECT_EQ(step.diagnosis.failure_class, FailureClass::kPlumbing);
    EXPECT_EQ(step.model_calls, 0);
    EXPECT_EQ(step.decision.action, Action::kPatchTool);
    EXPECT_FALSE(step.decision.record_example);
    EXPECT_NE(FindMask(step.decision, "plumbing_never_trains"), nullptr);
  }
  EXPECT_FALSE(story.Train(0));
  EXPECT_TRUE(story.book.ticket("tool-calls").examples.empty());
}

TEST(Story, WrongVerifierIsDisputedAndTouchesNoLever) {
  Story story({"Weather in Rome"});
  for (int i = 0; i < 40; ++i) {
    const Case c = FactCase(absl::StrCat("f", i), absl::StrCat("Who leads town number ", i, "?"),
                            absl::StrCat("Leader ", i));
    const Story::Step step = story.Fail(c, {.gold = 0, .pp = 1});
    EXPECT_EQ(step.diagnosis.failure_class, FailureClass::kVerifierWrong);
    EXPECT_EQ(step.model_calls, 0);
    EXPECT_EQ(step.decision.action, Action::kAbstain);
    EXPECT_EQ(step.decision.validation_reason, "verifier_disputed");
    EXPECT_FALSE(step.decision.record_example);
  }
  EXPECT_EQ(story.book.ticket("facts").state, S::kOpen);
  EXPECT_FALSE(story.Train(0));
}

// Faults sprinkled into a healthy cluster neither hide its signature nor enter the training data.
TEST(Story, FaultsInsideAClusterAreSortedOutOneByOne) {
  Story story({"Who leads Zo?"});
  for (int i = 0; i < 60; ++i) {
    const Case c = ToolCase(absl::StrCat("t", i), absl::StrCat("Look up item ", i), "lookup");
    FakeReplays replays;
    if (i % 30 == 7) replays = {.gold = 0, .gold_tool_error = true};
    if (i == 20) replays = {.gold = 0};
    const Story::Step step = story.Fail(c, replays);
    const FailureClass expected = i % 30 == 7 ? FailureClass::kPlumbing
                                  : i == 20   ? FailureClass::kVerifierWrong
                                              : FailureClass::kAbsentCapability;
    EXPECT_EQ(step.diagnosis.failure_class, expected) << i;
  }
  EXPECT_EQ(story.book.ticket("tool-calls").examples.size(), 57u);
  // One tool only: a single sub-intent does not train under the rules.
  EXPECT_FALSE(story.Train(0));
}

}  // namespace
}  // namespace evolora
