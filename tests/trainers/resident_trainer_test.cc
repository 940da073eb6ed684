#include "evolora/trainers/resident_trainer.h"

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "support/failing_file_system.h"
#include "support/fake_clock.h"
#include "support/status_matchers.h"
#include "support/temp_dir.h"
#include "trainers/resident_jobs.h"

namespace evolora {
namespace {

using ::evolora::testing::Alone;
using ::evolora::testing::ExpectAllAsAlone;
using ::evolora::testing::ExpectSameBytes;
using ::evolora::testing::FakeClock;
using ::evolora::testing::IsOk;
using ::evolora::testing::MakeJob;
using ::evolora::testing::OddJobs;
using ::evolora::testing::RowsOf;
using ::evolora::testing::RunAll;
using ::evolora::testing::StatusIs;
using ::evolora::testing::TempDir;
using ::evolora::testing::WideBase;
using ::testing::_;
using ::testing::HasSubstr;

TEST(ResidentTrainer, EveryJobHasTheBytesItHasAlone) {
  const auto base = WideBase();
  const std::vector<QueuedJob> jobs = OddJobs(base);
  for (const int64_t tokens_per_pass : {1, 70, 100000}) {
    SCOPED_TRACE(tokens_per_pass);
    ExpectAllAsAlone(jobs, RunAll(base, jobs, {.tokens_per_pass = tokens_per_pass}));
  }
}

TEST(ResidentTrainer, JobsWaitUntilTheyFitAndAdaptersOrTokensLimit) {
  const auto base = WideBase();
  const std::vector<QueuedJob> jobs = OddJobs(base);
  for (const ResidentLimits& limits :
       {ResidentLimits{.max_adapters = 2}, ResidentLimits{.tokens_per_step = 1},
        ResidentLimits{.tokens_per_step = 170}}) {
    int64_t at_work = 0, most = 0;
    size_t given = 0;
    std::vector<JobOutcome> outcomes;
    ASSERT_OK_AND_ASSIGN(const auto trainer, ResidentTrainer::Create(base, limits));
    const auto next = [&]() -> std::optional<QueuedJob> {
      if (given == jobs.size()) return std::nullopt;
      QueuedJob job = jobs[given++];
      job.options.on_step = [&at_work, &most](const StepReport& step) {
        if (step.step == 1) ++at_work;
        most = std::max(most, at_work);
        if (step.step == step.total_steps) --at_work;
      };
      return job;
    };
    const auto take = [&](JobOutcome outcome) { outcomes.push_back(std::move(outcome)); };
    ASSERT_THAT(trainer->Run(next, take, PosixFileSystem(), FakeClock(), {}), IsOk());
    EXPECT_LE(most, limits.tokens_per_step == 1 ? 1 : limits.tokens_per_step == 170 ? 3 : 2);
    EXPECT_GE(most, limits.tokens_per_step == 1 ? 1 : 2);
    ASSERT_EQ(outcomes.size(), jobs.size());
    for (const QueuedJob& job : jobs) {
      const auto outcome = std::find_if(outcomes.begin(), outcomes.end(),
                                        [&](const JobOutcome& o) { return o.name == job.name; });
      ASSERT_NE(outcome, outcomes.end());
      ASSERT_OK_AND_ASSIGN(const TrainedAdapter alone, Alone(job));
      ExpectSameBytes(*outcome, alone);
    }
  }
}

TEST(ResidentTrainer, AStoppedQueueResumesEveryJobToTheSameBytes) {
  const auto base = WideBase();
  for (const int64_t stop_after : {1, 3}) {
    SCOPED_TRACE(stop_after);
    const TempDir work;
    const std::vector<QueuedJob> jobs = OddJobs(base);
    std::vector<QueuedJob> stopping = jobs;
    std::stop_source stop;
    for (QueuedJob& job : stopping) job.options.work_dir = work.path() + "/" + job.name;
    std::vector<QueuedJob> resuming = stopping;
    stopping[0].options.on_step = [&](const StepReport& step) {
      if (step.step == stop_after) stop.request_stop();
    };
    const ResidentLimits limits = {.max_adapters = 3};
    for (const JobOutcome& outcome : RunAll(base, stopping, limits, stop.get_token())) {
      if (outcome.trained.ok()) continue;  // the short one
      EXPECT_THAT(outcome.trained, StatusIs(absl::StatusCode::kCancelled, _));
    }
    for (QueuedJob& job : resuming) job.options.resume = true;
    ExpectAllAsAlone(jobs, RunAll(base, resuming, limits));
  }
}

// A kill leaves the checkpoints of different steps: two of each four steps here.
TEST(ResidentTrainer, JobsResumedAtDifferentStepsEndWithTheSameBytes) {
  const auto base = WideBase();
  const TempDir work;
  const std::vector<QueuedJob> jobs = OddJobs(base);
  std::vector<QueuedJob> partly = jobs;
  for (size_t i = 0; i < jobs.size(); ++i) {
    partly[i].options.work_dir = work.path() + "/" + jobs[i].name;
    partly[i].stop_after = static_cast<int64_t>(i) + 1;
  }
  std::vector<QueuedJob> resuming = partly;
  const std::vector<JobOutcome> early = RunAll(base, partly);
  for (size_t i = 0; i < jobs.size(); ++i) {
    ASSERT_THAT(early[i].trained.status(), IsOk());
    ASSERT_OK_AND_ASSIGN(const TrainedAdapter alone, Alone(jobs[i]));
    EXPECT_EQ(early[i].trained->history.size(), std::min(i + 1, alone.history.size()));
    resuming[i].options.resume = true;
    resuming[i].stop_after = 0;
  }
  ExpectAllAsAlone(jobs, RunAll(base, resuming));
}

TEST(ResidentTrainer, KilledAtAnyWriteTheQueueResumesToTheSameBytes) {
  const auto base = WideBase();
  std::vector<QueuedJob> jobs = OddJobs(base);
  jobs.resize(3);
  for (QueuedJob& job : jobs) job.job.recipe.checkpoint_every_steps = 1;
  std::vector<TrainedAdapter> alone;
  for (const QueuedJob& job : jobs) {
    ASSERT_OK_AND_ASSIGN(alone.emplace_back(), Alone(job));
  }
  const ResidentLimits limits = {.max_adapters = 2};
  int kills = 0;
  for (int n = 1;; ++n) {
    SCOPED_TRACE(n);
    const TempDir work;
    std::vector<QueuedJob> working = jobs;
    for (QueuedJob& job : working) {
      job.options.work_dir = work.path() + "/" + job.name;
      job.options.resume = true;
    }
    testing::FailingFileSystem dying(PosixFileSystem());
    dying.CrashAt(n, testing::CrashPoint::kTorn);
    RunAll(base, working, limits, {}, dying);  // dead: its outcomes do not matter
    if (!dying.crashed()) break;
    ++kills;
    const std::vector<JobOutcome> outcomes = RunAll(base, working, limits);
    for (size_t i = 0; i < jobs.size(); ++i) ExpectSameBytes(outcomes[i], alone[i]);
  }
  EXPECT_GT(kills, 8);
}

TEST(ResidentTrainer, AFullDiskEndsTheJobThatMeetsItAndLeavesItResumable) {
  const auto base = WideBase();
  const TempDir work;
  std::vector<QueuedJob> jobs = OddJobs(base);
  for (QueuedJob& job : jobs) job.options.work_dir = work.path() + "/" + job.name;
  testing::FailingFileSystem failing(PosixFileSystem());
  failing.FailAt(8, absl::ResourceExhaustedError("disk full"));  // five folders, then checkpoints
  const std::vector<JobOutcome> outcomes = RunAll(base, jobs, {}, {}, failing);
  int failed = 0;
  for (size_t i = 0; i < jobs.size(); ++i) {
    ASSERT_OK_AND_ASSIGN(const TrainedAdapter alone, Alone(OddJobs(base)[i]));
    if (outcomes[i].trained.ok()) {
      ExpectSameBytes(outcomes[i], alone);
      continue;
    }
    ++failed;
    EXPECT_THAT(outcomes[i].trained,
                StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("disk full")));
    jobs[i].options.resume = true;
    ExpectSameBytes(RunAll(base, {jobs[i]}).front(), alone);
  }
  EXPECT_EQ(failed, 1);
}

TEST(ResidentTrainer, AFailureEndsItsJobAlone) {
  const auto base = WideBase();
  std::vector<QueuedJob> jobs = OddJobs(base);
  const std::vector<QueuedJob> sound = {jobs[0], jobs[2], jobs[4]};
  jobs[1].job.rows[2].labels.assign(jobs[1].job.rows[2].ids.size(), kIgnoreLabel);
  jobs[3].job.recipe.target_modules = {};
  jobs[3].job.init = testing::RandomAdapter(base->config, 2, 5);
  for (LoraModule& module : jobs[3].job.init->modules) {
    std::fill(module.b.begin(), module.b.end(), 1e38f);  // its activations overflow
  }
  const std::vector<JobOutcome> outcomes = RunAll(base, jobs);
  EXPECT_THAT(outcomes[1].trained,
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("row 2")));
  EXPECT_THAT(outcomes[3].trained, StatusIs(absl::StatusCode::kAborted, HasSubstr("step 1")));
  ExpectAllAsAlone(sound, {outcomes[0], outcomes[2], outcomes[4]});
}

TEST(ResidentTrainer, RefusesLimitsBelowOne) {
  const auto base = testing::RandomWeights(testing::SmallConfig(), 7);
  EXPECT_THAT(ResidentTrainer::Create(base, {.tokens_per_pass = 0}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("tokens_per_pass is 0")));
}

// The first loss of a run that starts from an adapter is that adapter's.
TEST(ResidentTrainer, TheHeldOutLossIsTheLossOfTheAdapterThatLeaves) {
  const auto base = testing::RandomWeights(testing::SmallConfig(), 7);
  QueuedJob job = MakeJob(base, "job", 3, 8);
  job.held_out = RowsOf(base->config, 6, 77);
  QueuedJob shorter = job;
  shorter.name = "shorter";
  shorter.stop_after = 2;
  for (const JobOutcome& outcome : RunAll(base, {job, shorter})) {
    SCOPED_TRACE(outcome.name);
    ASSERT_THAT(outcome.trained.status(), IsOk());
    QueuedJob after = job;
    after.job.rows = job.held_out;
    after.job.recipe.rows_per_step = 6;
    after.job.init = outcome.trained->adapter;
    ASSERT_OK_AND_ASSIGN(const TrainedAdapter measured, Alone(after));
    ASSERT_TRUE(outcome.held_out_loss.has_value());
    EXPECT_NEAR(*outcome.held_out_loss, measured.history.front().loss, 1e-6);
  }
}

}  // namespace
}  // namespace evolora
