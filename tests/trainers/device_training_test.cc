// Whole runs on the device path, on the CPU.
#include <atomic>
#include <filesystem>
#include <limits>
#include <stop_token>
#include <utility>

#include "c10/core/Allocator.h"
#include "c10/core/CPUAllocator.h"
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

TEST(DeviceTraining, TakesTheStepsOfTheFastPathWithMagnitudesAndDropout) {
  for (const bool dora : {false, true}) {
    TrainingJob fast = DeviceJob(), device = OnDevicePath();
    for (TrainingJob* job : {&fast, &device}) {
      job->recipe.use_dora = dora;
      job->recipe.lora_dropout = dora ? 0 : 0.2;
    }
    ASSERT_OK_AND_ASSIGN(const TrainedAdapter a, Train(device));
    ASSERT_OK_AND_ASSIGN(const TrainedAdapter b, Train(fast));
    EXPECT_EQ(Difference(a, b, 2e-5), "") << dora;
  }
}

// A device that is full at one allocation of its life, on the CPU.
class FullOnce : public c10::Allocator {
 public:
  explicit FullOnce(int64_t allocations) : left_(allocations), inner_(c10::GetCPUAllocator()) {
    c10::SetCPUAllocator(this);
  }
  ~FullOnce() override { c10::SetCPUAllocator(inner_); }
  FullOnce(const FullOnce&) = delete;
  FullOnce& operator=(const FullOnce&) = delete;

  c10::DataPtr allocate(size_t bytes) override {
    if (left_.fetch_sub(1) == 0) C10_THROW_ERROR(OutOfMemoryError, "the device is full");
    return inner_->allocate(bytes);
  }
  c10::DeleterFnPtr raw_deleter() const override { return inner_->raw_deleter(); }
  void copy_data(void* to, const void* from, size_t count) const override {
    default_copy_data(to, from, count);
  }
  bool was_full() const { return left_ < 0; }

 private:
  std::atomic<int64_t> left_;
  c10::Allocator* const inner_;
};

TEST(DeviceTraining, OutOfMemoryAnywhereIsResourceExhaustedAndResumes) {
  const TrainingJob job = OnDevicePath();
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter unbroken, Train(job));
  int64_t failed_in_a_step = 0;
  for (int64_t allocations = 0, finished = 0; finished == 0; allocations += 1 + allocations / 6) {
    const TempDir dir;
    const TrainOptions options{.work_dir = dir.path(), .resume = true};
    {
      const FullOnce full(allocations);
      const absl::StatusOr<TrainedAdapter> trained = Train(job, options);
      finished += full.was_full() ? 0 : 1;
      if (!full.was_full()) {
        EXPECT_THAT(trained, testing::IsOk());
        continue;
      }
      EXPECT_THAT(trained, StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("full")))
          << allocations;
    }
    failed_in_a_step += std::filesystem::exists(dir.path() + "/checkpoint.h5") ? 1 : 0;
    ASSERT_OK_AND_ASSIGN(const TrainedAdapter resumed, Train(job, options));
    EXPECT_EQ(AdapterDigest(resumed.adapter), AdapterDigest(unbroken.adapter)) << allocations;
  }
  EXPECT_GT(failed_in_a_step, 2);
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
  job.recipe.path = TrainingPath::kDevice;
  job.recipe.precision = TrainingPrecision::kBf16Autocast;
  EXPECT_THAT(Train(job), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("precision")));
}

}  // namespace
}  // namespace evolora
