#include "evolora/pipeline/run.h"

#include <cstdio>
#include <map>
#include <memory>
#include <set>
#include <string>

#include "evolora/core/status_macros.h"
#include "evolora/pipeline/measure.h"
#include "run_world.h"
#include "support/fake_clock.h"
#include "support/status_matchers.h"
#include "support/temp_dir.h"

namespace evolora {
namespace {

using ::evolora::testing::FakeClock;
using ::evolora::testing::RunWorld;
using ::evolora::testing::StatusIs;
using ::evolora::testing::TempDir;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

// One home in a temporary folder, and runs in it.
class RunTest : public ::testing::Test {
 protected:
  absl::StatusOr<RunResult> Run(RunWorld& world, const RunOptions& options,
                                const RunObserver& observer = {}, std::stop_token stop = {}) {
    ASSIGN_OR_RETURN(home_, Open());
    return RunLoop(world.Tools(*home_), world.stream(), options, observer, stop);
  }
  absl::StatusOr<std::unique_ptr<Home>> Open() {
    home_.reset();
    return Home::Open(directory_.path(), PosixFileSystem(), clock_);
  }

  // Right answers on the sealed split, before and after, by cluster.
  std::map<std::string, std::pair<int64_t, int64_t>> SealedResults(RunWorld& world,
                                                                   const RunResult& result) {
    std::map<std::string, std::pair<int64_t, int64_t>> out;
    const LoadAdapterFn load = [](const LoraAdapter&) { return absl::OkStatus(); };
    const auto before = OpenVersion(*home_, result.start_version, load);
    const auto after = OpenVersion(*home_, result.final_version, load);
    Solver solver(world.model(), SolveOptions());
    StoreLookRecorder recorder(home_->evidence(), "test");
    const auto comparison = CompareVersions(solver, before->view, after->view, world.stream(),
                                            recorder, "a test looks", {});
    for (const PairedSummary& row : comparison->splits.back().clusters) {
      out[row.cluster] = {row.both_right + row.only_champion, row.both_right + row.only_candidate};
    }
    return out;
  }

  TempDir directory_;
  FakeClock clock_;
  std::unique_ptr<Home> home_;
};

TEST_F(RunTest, FixesFactsWithTextToolsWithWeightsAndLeavesFaultsAlone) {
  RunWorld world;
  std::map<std::string, std::set<std::string>> actions;
  RunObserver observer;
  observer.on_decision = [&](const Diagnosis& d, const Decision& decision, int64_t) {
    actions[d.cluster].insert(ActionName(decision.action));
    EXPECT_FALSE(decision.reason.empty());
  };
  ASSERT_OK_AND_ASSIGN(const RunResult result, Run(world, world.Options(1), observer));
  const auto sealed = SealedResults(world, result);
  EXPECT_EQ(sealed.at("facts"), std::make_pair(int64_t{0}, int64_t{20}));
  EXPECT_EQ(sealed.at("tools"), std::make_pair(int64_t{0}, int64_t{12}));
  EXPECT_EQ(sealed.at("persona"), std::make_pair(int64_t{0}, int64_t{4}));
  EXPECT_EQ(sealed.at("general"), std::make_pair(int64_t{10}, int64_t{10}));
  EXPECT_EQ(actions.at("facts"), std::set<std::string>{ActionName(Action::kPatchKnowledge)});
  EXPECT_EQ(world.num_trainings, 1);
  for (const TrainingRequest& request : world.requests) {
    EXPECT_EQ(request.data_jsonl.find("What time is it"), std::string::npos);
    EXPECT_EQ(request.data_jsonl.find("spider"), std::string::npos);
  }
  for (const std::string cluster : {"broken", "label"}) {
    EXPECT_EQ(actions.at(cluster).count(ActionName(Action::kFeedLora)), 0u) << cluster;
    EXPECT_EQ(actions.at(cluster).count(ActionName(Action::kScheduleLora)), 0u) << cluster;
  }
}

TEST_F(RunTest, TheAdapterIsScopedToTheRequestsOfItsCluster) {
  RunWorld world;
  ASSERT_OK_AND_ASSIGN(const RunResult result, Run(world, world.Options(1)));
  ASSERT_OK_AND_ASSIGN(const VersionRecord record, home_->registry().Resolve(result.final_version));
  ASSERT_EQ(record.manifest.adapters.size(), 1u);
  const Trigger& scope = record.manifest.adapters[0].scope;
  EXPECT_FALSE(scope.all);
  for (const Case& c : world.stream().query()) {
    EXPECT_EQ(Matches(scope, RequestText(c.messages)), c.cluster == "tools") << c.id;
  }
}

TEST_F(RunTest, SameSeedGivesTheSameVersionIdsInAnotherHome) {
  RunWorld first, second;
  ASSERT_OK_AND_ASSIGN(const RunResult a, Run(first, first.Options(3)));
  const TempDir other;
  ASSERT_OK_AND_ASSIGN(const auto home, Home::Open(other.path(), PosixFileSystem(), clock_));
  ASSERT_OK_AND_ASSIGN(const RunResult b,
                       RunLoop(second.Tools(*home), second.stream(), second.Options(3), {}, {}));
  EXPECT_EQ(a.versions, b.versions);
  EXPECT_EQ(a.final_version, b.final_version);
}

// The model dies at its n-th call, for many n; the run is started again and must end the same.
TEST_F(RunTest, AnInterruptedRunEndsWithTheVersionsOfTheUnbrokenOne) {
  RunWorld unbroken;
  ASSERT_OK_AND_ASSIGN(const RunResult expected, Run(unbroken, unbroken.Options(2)));
  for (const int64_t fail_at : {0, 7, 60, 150}) {
    SCOPED_TRACE(fail_at);
    const TempDir other;
    RunWorld world;
    world.model().fail_at_call = fail_at;
    {
      ASSERT_OK_AND_ASSIGN(const auto home, Home::Open(other.path(), PosixFileSystem(), clock_));
      const auto broken = RunLoop(world.Tools(*home), world.stream(), world.Options(2), {}, {});
      if (!broken.ok()) {
        ASSERT_THAT(broken, StatusIs(absl::StatusCode::kUnavailable, HasSubstr("")));
      }
    }
    world.model().fail_at_call = -1;
    ASSERT_OK_AND_ASSIGN(const auto home, Home::Open(other.path(), PosixFileSystem(), clock_));
    ASSERT_OK_AND_ASSIGN(const RunResult resumed,
                         RunLoop(world.Tools(*home), world.stream(), world.Options(2), {}, {}));
    EXPECT_EQ(resumed.versions, expected.versions);
    EXPECT_EQ(resumed.final_version, expected.final_version);
    EXPECT_EQ(resumed.solve.prompt_tokens, expected.solve.prompt_tokens);
    EXPECT_EQ(resumed.evolve.prompt_tokens, expected.evolve.prompt_tokens);
    ASSERT_OK_AND_ASSIGN(const auto log, home->registry().Log("champion"));
    EXPECT_EQ(log.size(), expected.versions.size() + 1) << "every move once";
  }
}

TEST_F(RunTest, AFinishedRunStartedAgainAsksTheModelNothing) {
  RunWorld world;
  ASSERT_OK_AND_ASSIGN(const RunResult first, Run(world, world.Options(1)));
  const size_t calls = world.model().calls.size();
  ASSERT_OK_AND_ASSIGN(const RunResult second, Run(world, world.Options(1)));
  EXPECT_EQ(second.final_version, first.final_version);
  EXPECT_EQ(world.model().calls.size(), calls);
}

TEST_F(RunTest, ACrashedTrainingIsAFailedTicketNotAFailedRun) {
  RunWorld world;
  world.num_crashes = 1;
  std::vector<std::string> notes;
  RunObserver observer;
  observer.on_note = [&](const std::string& note) { notes.push_back(note); };
  ASSERT_OK_AND_ASSIGN(const RunResult result, Run(world, world.Options(1), observer));
  EXPECT_EQ(world.num_trainings, 2);
  EXPECT_EQ(SealedResults(world, result).at("tools").second, 12);
  EXPECT_THAT(notes, ::testing::Contains(HasSubstr("the child died")));
}

// What the champion gets wrong is not protected: inside an adapter's scope it is meant to change.
TEST_F(RunTest, KlIsMeasuredOnAnchorsTheChampionAnswersRight) {
  RunWorld world;
  ASSERT_OK_AND_ASSIGN(const RunResult result, Run(world, world.Options(1)));
  int64_t num_right = 0;
  for (const GenerateRequest& request : world.shift_requests) {
    const std::string& text = request.messages.back().content;
    int number = -1;
    if (std::sscanf(text.c_str(), "Say the word w%dx", &number) != 1) continue;
    EXPECT_NE(number % 9, 0) << text;
    ++num_right;
  }
  EXPECT_GT(num_right, 0);
}

TEST_F(RunTest, TrainingThatAlwaysCrashesIsGivenUpAndTheRunGoesOn) {
  RunWorld world;
  world.num_crashes = 100;
  ASSERT_OK_AND_ASSIGN(const RunResult result, Run(world, world.Options(1)));
  EXPECT_EQ(world.num_trainings, Ledger().max_training_crashes);
  EXPECT_EQ(SealedResults(world, result).at("tools").second, 0);
  EXPECT_EQ(SealedResults(world, result).at("facts").second, 20);
}

TEST_F(RunTest, TheGateRefusesACarelessAdapterAndWithoutTheGateAnchorsAreLost) {
  RunWorld guarded(/*careless_adapter=*/true);
  ASSERT_OK_AND_ASSIGN(const RunResult with_gate, Run(guarded, guarded.Options(1)));
  EXPECT_EQ(SealedResults(guarded, with_gate).at("general").second, 10);

  home_.reset();
  const TempDir other;
  RunWorld unguarded(/*careless_adapter=*/true);
  RunOptions options = unguarded.Options(1);
  options.gate = false;
  ASSERT_OK_AND_ASSIGN(home_, Home::Open(other.path(), PosixFileSystem(), clock_));
  ASSERT_OK_AND_ASSIGN(const RunResult without_gate,
                       RunLoop(unguarded.Tools(*home_), unguarded.stream(), options, {}, {}));
  EXPECT_EQ(SealedResults(unguarded, without_gate).at("general").second, 0);
  home_.reset();
}

TEST_F(RunTest, StopsBetweenWindowsAndGoesOn) {
  RunWorld world;
  std::stop_source stop;
  RunObserver observer;
  observer.on_episode = [&](const Episode&) { stop.request_stop(); };
  EXPECT_THAT(Run(world, world.Options(1), observer, stop.get_token()),
              StatusIs(absl::StatusCode::kCancelled, HasSubstr("stopped")));
  ASSERT_OK_AND_ASSIGN(const RunResult result, Run(world, world.Options(1)));
  EXPECT_EQ(result.episodes, static_cast<int64_t>(world.stream().stream().size()));
}

TEST_F(RunTest, StopsAfterTheFailureInHandAndGoesOn) {
  RunWorld world;
  ASSERT_OK_AND_ASSIGN(const RunResult unbroken, Run(world, world.Options(1)));
  const TempDir other;
  ASSERT_OK_AND_ASSIGN(home_, Home::Open(other.path(), PosixFileSystem(), clock_));
  RunWorld stopped;
  std::stop_source stop;
  int64_t decisions = 0;
  RunObserver observer;
  observer.on_decision = [&](const Diagnosis&, const Decision&, int64_t) {
    ++decisions;
    stop.request_stop();
  };
  EXPECT_THAT(RunLoop(stopped.Tools(*home_), stopped.stream(), stopped.Options(1), observer,
                      stop.get_token()),
              StatusIs(absl::StatusCode::kCancelled, HasSubstr("stopped")));
  EXPECT_EQ(decisions, 1);
  ASSERT_OK_AND_ASSIGN(const RunResult resumed, RunLoop(stopped.Tools(*home_), stopped.stream(),
                                                        stopped.Options(1), {}, {}));
  EXPECT_EQ(resumed.versions, unbroken.versions);
  home_.reset();
}

// A home that has seen a run goes on with it alone, not with one that looks at the gate otherwise.
TEST_F(RunTest, TheIdNamesWhatDecisionsDependOn) {
  RunWorld world;
  const std::string id = RunId(world.Options(1), world.stream());
  EXPECT_EQ(RunId(world.Options(1), world.stream()), id);
  RunOptions other = world.Options(1);
  other.gate_chunk = 1;
  EXPECT_NE(RunId(other, world.stream()), id);
  EXPECT_NE(RunId(world.Options(2), world.stream()), id);
  RunOptions alike = world.Options(1);
  alike.model_batch = 3;
  EXPECT_EQ(RunId(alike, world.stream()), id);
}

TEST_F(RunTest, StopsInTheMiddleOfAGateRoundAndGoesOn) {
  RunWorld world;
  RunOptions options = world.Options(1);
  options.gate_chunk = 1;
  ASSERT_OK_AND_ASSIGN(const RunResult unbroken, Run(world, options));
  const TempDir other;
  ASSERT_OK_AND_ASSIGN(home_, Home::Open(other.path(), PosixFileSystem(), clock_));
  RunWorld stopped;
  std::stop_source stop;
  int64_t rounds = 0, verdicts = 0;
  RunObserver observer;
  observer.on_progress = [&](const std::string& phase, int64_t, int64_t) {
    if (phase != "gate: query") return;
    ++rounds;
    stop.request_stop();
  };
  observer.on_verdict = [&](const std::string&, const GateVerdict&) { ++verdicts; };
  EXPECT_THAT(RunLoop(stopped.Tools(*home_), stopped.stream(), options, observer, stop.get_token()),
              StatusIs(absl::StatusCode::kCancelled, HasSubstr("two rounds of the gate")));
  EXPECT_EQ(rounds, 1);
  EXPECT_EQ(verdicts, 0);
  ASSERT_OK_AND_ASSIGN(const RunResult resumed,
                       RunLoop(stopped.Tools(*home_), stopped.stream(), options, {}, {}));
  EXPECT_EQ(resumed.versions, unbroken.versions);
  home_.reset();
}

TEST_F(RunTest, PatchesThatTheGateNeverDecidesAreNamedAtTheEnd) {
  RunWorld world;
  RunOptions options = world.Options(1);
  options.gate_policy.alpha = 1e-9;  // more evidence than the query split can give
  std::vector<std::string> dropped;
  RunObserver observer;
  observer.on_note = [&](const std::string& note) {
    if (note.find("could not decide") != std::string::npos) dropped.push_back(note);
  };
  ASSERT_OK_AND_ASSIGN(const RunResult result, Run(world, options, observer));
  EXPECT_THAT(result.versions, IsEmpty());
  EXPECT_THAT(dropped, Not(IsEmpty()));
}

TEST_F(RunTest, ChampionMovedBySomebodyElseIsNotOverwritten) {
  RunWorld world;
  std::stop_source stop;
  RunObserver observer;
  observer.on_commit = [&](const VersionRecord&) { stop.request_stop(); };
  ASSERT_THAT(Run(world, world.Options(1), observer, stop.get_token()),
              StatusIs(absl::StatusCode::kCancelled, HasSubstr("")));
  ASSERT_OK_AND_ASSIGN(const AliasRecord back,
                       home_->registry().Rollback({.alias = "champion", .reason = "operator"}));
  EXPECT_THAT(Run(world, world.Options(1)),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("moved by somebody else")));
}

TEST_F(RunTest, TheBudgetStopsEvolvingNotSolving) {
  RunWorld world;
  RunOptions options = world.Options(1);
  options.evolve_token_budget = 1;
  ASSERT_OK_AND_ASSIGN(const RunResult result, Run(world, options));
  EXPECT_EQ(result.episodes, static_cast<int64_t>(world.stream().stream().size()));
  EXPECT_EQ(world.num_trainings, 0);
}

TEST_F(RunTest, SealedCasesNeverReachTheModelDuringARun) {
  RunWorld world;
  ASSERT_OK_AND_ASSIGN(const RunResult result, Run(world, world.Options(1)));
  for (const auto& call : world.model().calls) {
    for (const GenerateRequest& request : call) {
      for (const Message& message : request.messages) {
        EXPECT_EQ(message.content.find("One more time"), std::string::npos);
      }
    }
  }
}

}  // namespace
}  // namespace evolora
