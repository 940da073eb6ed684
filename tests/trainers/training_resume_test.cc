// What a work folder keeps of a run.
#include <string>
#include <vector>

#include "evolora/trainers/lora_trainer.h"
#include "support/failing_file_system.h"
#include "support/fake_clock.h"
#include "support/status_matchers.h"
#include "support/temp_dir.h"
#include "trainers/tiny_job.h"

namespace evolora {
namespace {

using ::evolora::testing::FakeClock;
using ::evolora::testing::StatusIs;
using ::evolora::testing::StopAfter;
using ::evolora::testing::TempDir;
using ::evolora::testing::TinyDpoJob;
using ::evolora::testing::TinyJob;
using ::evolora::testing::Train;
using ::testing::HasSubstr;

TEST(TrainLora, StoppedAndResumedGivesTheBytesOfTheUnbrokenRun) {
  const TrainingJob job = TinyJob();
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter unbroken, Train(job));
  for (const int64_t stop_after : {1, 2, 5, 8}) {
    SCOPED_TRACE(stop_after);
    const TempDir work;
    const StopAfter stop(stop_after, work.path());
    ASSERT_THAT(Train(job, stop.options(), stop.token()),
                StatusIs(absl::StatusCode::kCancelled, HasSubstr("stopped after step")));
    int64_t steps_taken = 0;
    const TrainOptions resuming{.work_dir = work.path(),
                                .resume = true,
                                .on_step = [&](const StepReport&) { ++steps_taken; }};
    ASSERT_OK_AND_ASSIGN(const TrainedAdapter resumed, Train(job, resuming));
    EXPECT_EQ(steps_taken, 9 - stop_after);
    EXPECT_EQ(AdapterDigest(resumed.adapter), AdapterDigest(unbroken.adapter));
    ASSERT_EQ(resumed.history.size(), unbroken.history.size());
    for (size_t i = 0; i < resumed.history.size(); ++i) {
      EXPECT_EQ(resumed.history[i].loss, unbroken.history[i].loss);
    }
  }
}

TEST(TrainLora, FiguresAndFrozenPassesSurviveAResume) {
  TrainingJob job = TinyDpoJob();
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter start, Train(job));
  job.init = start.adapter;
  job.recipe.objective.reference = FrozenModel::kInit;
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter unbroken, Train(job));
  const TempDir work;
  const StopAfter stop(5, work.path());
  ASSERT_THAT(Train(job, stop.options(), stop.token()),
              StatusIs(absl::StatusCode::kCancelled, HasSubstr("stopped after step 5")));
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter resumed,
                       Train(job, {.work_dir = work.path(), .resume = true}));
  EXPECT_EQ(AdapterDigest(resumed.adapter), AdapterDigest(unbroken.adapter));
  ASSERT_EQ(resumed.history.size(), unbroken.history.size());
  for (size_t i = 0; i < resumed.history.size(); ++i) {
    EXPECT_EQ(resumed.history[i].figures, unbroken.history[i].figures) << i;
  }
}

TEST(TrainLora, FrozenPassesCanBeStoppedAndNeedTheirModel) {
  TrainingJob job = TinyDpoJob();
  std::stop_source stop;
  stop.request_stop();
  EXPECT_THAT(Train(job, {}, stop.get_token()),
              StatusIs(absl::StatusCode::kCancelled, HasSubstr("frozen model")));
  job.recipe.objective.reference = FrozenModel::kInit;
  EXPECT_THAT(Train(job),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("recipe.reference: init")));
}

TEST(TrainLora, CheckpointOfAnotherJobIsRefused) {
  const TempDir work;
  TrainingJob job = TinyJob();
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter done, Train(job, {.work_dir = work.path()}));
  job.recipe.learning_rate *= 2;
  EXPECT_THAT(Train(job, {.work_dir = work.path(), .resume = true}),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("another job")));
}

TEST(TrainLora, FailedCheckpointWriteKeepsTheLastOne) {
  const TempDir work;
  const TrainingJob job = TinyJob();
  FakeClock clock;
  testing::FailingFileSystem failing(PosixFileSystem());
  failing.FailAt(3, absl::ResourceExhaustedError("disk full"));  // folder, checkpoint, then this
  const TrainOptions options{.work_dir = work.path()};
  ASSERT_THAT(TrainLora(job, options, failing, clock, {}),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("disk full")));
  int64_t first_step = 0;
  const TrainOptions resuming{
      .work_dir = work.path(), .resume = true, .on_step = [&](const StepReport& step) {
        if (first_step == 0) first_step = step.step;
      }};
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter resumed, Train(job, resuming));
  EXPECT_EQ(first_step, 3);
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter unbroken, Train(job));
  EXPECT_EQ(AdapterDigest(resumed.adapter), AdapterDigest(unbroken.adapter));
}

TEST(TrainLora, AStartTakenOutOfTheBaseAndDropoutAreTheSameOnResume) {
  TrainingJob job = TinyJob();
  job.recipe.init_lora_weights = LoraInit::kPissa;
  job.recipe.lora_dropout = 0.2;
  TempDir dir;
  const StopAfter stop(4, dir.Join("work"));
  EXPECT_THAT(Train(job, stop.options(), stop.token()),
              StatusIs(absl::StatusCode::kCancelled, ::testing::_));
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter resumed,
                       Train(job, {.work_dir = dir.Join("work"), .resume = true}));
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter unbroken, Train(job));
  EXPECT_EQ(AdapterDigest(resumed.adapter), AdapterDigest(unbroken.adapter));
}

}  // namespace
}  // namespace evolora
