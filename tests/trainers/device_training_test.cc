// Whole runs on the device path, on the CPU.
#include <limits>
#include <stop_token>
#include <utility>

#include "evolora/adapters/lora_adapter.h"
#include "evolora/core/file_system.h"
#include "evolora/trainers/lora_trainer.h"
#include "gtest/gtest.h"
#include "support/fake_clock.h"
#include "support/status_matchers.h"
#include "support/temp_dir.h"
#include "trainers/device_cases.h"

namespace evolora {
namespace {

using testing::DeviceJob;
using testing::Difference;
using ::testing::HasSubstr;
using testing::StatusIs;
using testing::TempDir;

absl::StatusOr<TrainedAdapter> Train(const TrainingJob& job, const TrainOptions& options = {},
                                     std::stop_token stop = {}) {
  testing::FakeClock clock;
  return TrainLora(job, options, PosixFileSystem(), clock, stop);
}

TrainingJob OnDevicePath() {
  TrainingJob job = DeviceJob();
  job.recipe.path = TrainingPath::kDevice;
  return job;
}

TEST(DeviceTraining, TakesTheStepsOfTheFastPath) {
  for (const double max_grad_norm : {0.0, 0.5}) {
    for (const double ratio : {1.0, 4.0}) {
      TrainingJob fast = DeviceJob(), device = OnDevicePath();
      for (TrainingJob* job : {&fast, &device}) {
        job->recipe.max_grad_norm = max_grad_norm;
        job->recipe.lora_plus_ratio = ratio;
      }
      ASSERT_OK_AND_ASSIGN(const TrainedAdapter a, Train(device));
      ASSERT_OK_AND_ASSIGN(const TrainedAdapter b, Train(fast));
      EXPECT_EQ(Difference(a, b, 2e-5), "") << max_grad_norm << ", " << ratio;
    }
  }
}

TEST(DeviceTraining, InBfloat16LearnsAsInFp32) {
  TrainingJob job = OnDevicePath();
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter exact, Train(job));
  job.recipe.precision = TrainingPrecision::kBf16;
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter rounded, Train(job));
  EXPECT_EQ(Difference(rounded, exact, 0.02), "");
  EXPECT_NE(Difference(rounded, exact, 1e-6), "");
}

TEST(DeviceTraining, StoppedAndResumedGivesTheBytesOfTheUnbrokenRun) {
  const TrainingJob job = OnDevicePath();
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter unbroken, Train(job));
  const TempDir dir;
  std::stop_source stop;
  int64_t steps = 0;
  const TrainOptions options{
      .work_dir = dir.path(), .resume = true, .on_step = [&](const StepReport&) {
        if (++steps == 3) stop.request_stop();
      }};
  EXPECT_THAT(Train(job, options, stop.get_token()),
              StatusIs(absl::StatusCode::kCancelled, HasSubstr("step 3")));
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter resumed, Train(job, options));
  EXPECT_EQ(AdapterDigest(resumed.adapter), AdapterDigest(unbroken.adapter));
}

TEST(DeviceTraining, NonFiniteLossAborts) {
  TrainingJob job = OnDevicePath();
  auto broken = std::make_shared<LlamaWeights>(*job.base);
  broken->final_norm = broken->final_norm.clone();
  broken->final_norm.mutable_data_ptr<float>()[3] = std::numeric_limits<float>::quiet_NaN();
  job.base = broken;
  EXPECT_THAT(Train(job), StatusIs(absl::StatusCode::kAborted, HasSubstr("step 1")));
}

TEST(DeviceTraining, RefusesWhatNoDeviceRuns) {
  EXPECT_THAT(CheckTrainingDevice("cpu"), testing::IsOk());
  EXPECT_THAT(CheckTrainingDevice("tpu"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("device 'tpu'")));
  TrainingJob job = DeviceJob();
  EXPECT_THAT(Train(job, {.device = "tpu"}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("device 'tpu'")));
  job.recipe.precision = TrainingPrecision::kBf16;
  EXPECT_THAT(Train(job), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("precision")));
}

}  // namespace
}  // namespace evolora
