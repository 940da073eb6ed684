// Jobs of a resident trainer on the device path, on the CPU: one after the other over one base.
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "device/device_base.h"
#include "evolora/model/compact_weights.h"
#include "support/temp_dir.h"
#include "trainers/device_cases.h"
#include "trainers/resident_jobs.h"

namespace evolora {
namespace {

using ::evolora::testing::Case;
using ::evolora::testing::Compute;
using ::evolora::testing::DeviceGradient;
using ::evolora::testing::Difference;
using ::evolora::testing::ExpectAllAsAlone;
using ::evolora::testing::Gradient;
using ::evolora::testing::IsOk;
using ::evolora::testing::MakeCase;
using ::evolora::testing::MakeJob;
using ::evolora::testing::OddJobs;
using ::evolora::testing::RowsOf;
using ::evolora::testing::RunAll;
using ::evolora::testing::StatusIs;
using ::evolora::testing::TempDir;
using ::evolora::testing::WideBase;
using ::testing::HasSubstr;

std::vector<QueuedJob> OnDevicePath(std::vector<QueuedJob> jobs) {
  for (QueuedJob& job : jobs) job.job.recipe.path = TrainingPath::kDevice;
  return jobs;
}

TEST(DeviceJobs, EveryJobHasTheBytesItHasAlone) {
  const auto base = WideBase();
  const std::vector<QueuedJob> jobs = OnDevicePath(OddJobs(base));
  ExpectAllAsAlone(jobs, RunAll(base, jobs));
}

TEST(DeviceJobs, OfAllKindsHaveTheBytesTheyHaveAlone) {
  const auto base = testing::RandomWeights(testing::SmallConfig(), 7);
  for (std::vector<QueuedJob> jobs : {testing::SpecialJobs(base), testing::FrozenModelJobs(base)}) {
    jobs = OnDevicePath(std::move(jobs));
    ExpectAllAsAlone(jobs, RunAll(base, jobs));
  }
}

TEST(DeviceJobs, ModulesSavedAsAWholeLeaveTheBaseToTheOthers) {
  for (const bool tied : {false, true}) {
    SCOPED_TRACE(tied);
    LlamaConfig config = testing::SmallConfig();
    config.tied_head = tied;
    config.qk_norm = true;
    const auto base = testing::RandomWeights(config, 7);
    std::vector<QueuedJob> jobs =
        OnDevicePath({MakeJob(base, "all", 2, 8), MakeJob(base, "plain", 5, 8),
                      MakeJob(base, "norms", 3, 6), MakeJob(base, "embedding", 4, 6),
                      MakeJob(base, "head", 4, 6), MakeJob(base, "plain again", 3, 8)});
    jobs[0].job.recipe.modules_to_save = {"lm_head", "embed_tokens", "norm"};
    jobs[2].job.recipe.modules_to_save = {"1.post_attention_layernorm", "model.norm", "q_norm"};
    jobs[3].job.recipe.modules_to_save = {"embed_tokens"};
    jobs[4].job.recipe.modules_to_save = {"lm_head"};
    ExpectAllAsAlone(jobs, RunAll(base, jobs));
  }
}

TEST(DeviceJobs, ShareABaseInFewBits) {
  const auto wide = WideBase();
  for (const WeightStorage storage :
       {WeightStorage::kBf16, WeightStorage::kInt8, WeightStorage::kQ4}) {
    SCOPED_TRACE(WeightStorageName(storage));
    const auto base = std::make_shared<const LlamaWeights>(CompactCopy(*wide, storage));
    std::vector<QueuedJob> jobs = OnDevicePath(OddJobs(base));
    jobs[3].job.recipe.modules_to_save = {"lm_head", "model.norm"};
    jobs[3].job.recipe.weight_decay = 0;
    for (QueuedJob& job : jobs) job.job.recipe.base_weights = storage;
    ExpectAllAsAlone(jobs, RunAll(base, jobs));
  }
}

TEST(DeviceJobs, InBf16AllOrNone) {
  const auto base = WideBase();
  std::vector<QueuedJob> jobs = OnDevicePath(OddJobs(base));
  for (QueuedJob& job : jobs) job.job.recipe.precision = TrainingPrecision::kBf16;
  std::vector<QueuedJob> mixed = jobs;
  ExpectAllAsAlone(jobs, RunAll(base, jobs));
  mixed[1].job.recipe.precision = TrainingPrecision::kFp32;
  mixed[2].job.recipe.precision = TrainingPrecision::kBf16Autocast;
  const std::vector<JobOutcome> outcomes = RunAll(base, mixed);
  EXPECT_THAT(outcomes[0].trained.status(), IsOk());
  EXPECT_THAT(outcomes[1].trained,
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("computes in fp32, those before it in bf16")));
  EXPECT_THAT(outcomes[2].trained,
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("the device path has bf16")));
}

TEST(DeviceJobs, StandInOneListWithJobsOnTheFastPath) {
  const auto base = WideBase();
  std::vector<QueuedJob> jobs = OddJobs(base);
  for (const size_t i : {0, 3}) jobs[i].job.recipe.path = TrainingPath::kDevice;
  ExpectAllAsAlone(jobs, RunAll(base, jobs));
}

TEST(DeviceJobs, LeaveAndResumeWithTheSameBytes) {
  const auto base = WideBase();
  const TempDir work;
  const std::vector<QueuedJob> jobs = OnDevicePath(OddJobs(base));
  std::vector<QueuedJob> partly = jobs;
  for (size_t i = 0; i < jobs.size(); ++i) {
    partly[i].options.work_dir = work.path() + "/" + jobs[i].name;
    partly[i].stop_after = static_cast<int64_t>(i) + 1;
  }
  std::vector<QueuedJob> resuming = partly;
  for (const JobOutcome& early : RunAll(base, partly)) {
    EXPECT_THAT(early.trained.status(), IsOk()) << early.name;
  }
  for (QueuedJob& job : resuming) {
    job.options.resume = true;
    job.stop_after = 0;
  }
  ExpectAllAsAlone(jobs, RunAll(base, resuming));
}

TEST(DeviceJobs, HeldOutLossIsThatOfTheFastPath) {
  const auto base = WideBase();
  std::vector<QueuedJob> jobs = OddJobs(base);
  for (QueuedJob& job : jobs) job.held_out = RowsOf(base->config, 5, 77);
  const std::vector<JobOutcome> fast = RunAll(base, jobs);
  const std::vector<JobOutcome> device = RunAll(base, OnDevicePath(jobs));
  for (size_t i = 0; i < jobs.size(); ++i) {
    ASSERT_TRUE(device[i].held_out_loss.has_value()) << device[i].name;
    EXPECT_NEAR(*device[i].held_out_loss / *fast[i].held_out_loss, 1, 1e-4) << device[i].name;
  }
}

// With what is trained in its place or not, the gradient is that over a base of its own.
TEST(DeviceJobs, APathOverAResidentBaseGivesTheGradientOverItsOwn) {
  for (const bool tied : {false, true}) {
    for (const std::vector<std::string>& saved :
         {std::vector<std::string>{}, {"embed_tokens"}, {"lm_head", "norm"}}) {
      const Case c = MakeCase("case", [&](Case& made) {
        made.config.tied_head = tied;
        made.recipe.modules_to_save = saved;
      });
      const Gradient over = Compute(c, [](const GradientPathInputs& inputs) {
        return MakeDevicePath(
            inputs, {.base = std::make_shared<const ResidentBase>(
                         *inputs.base, at::kCPU, at::kFloat, DeviceLimits().widened_at_once)});
      });
      const Gradient own = DeviceGradient(c, {});
      EXPECT_EQ(Difference(over, own, 0), "");
    }
  }
}

TEST(DeviceJobs, ADeviceThatIsNotThereIsRefused) {
  EXPECT_THAT(ResidentTrainer::Create(WideBase(), {}, "tpu"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("tpu")));
}

}  // namespace
}  // namespace evolora
