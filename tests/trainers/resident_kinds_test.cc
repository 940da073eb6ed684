// What kinds of jobs stand beside each other, each with the bytes that it has alone.
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "evolora/model/compact_weights.h"
#include "support/temp_dir.h"
#include "trainers/resident_jobs.h"

namespace evolora {
namespace {

using ::evolora::testing::Alone;
using ::evolora::testing::ExpectAllAsAlone;
using ::evolora::testing::FrozenModelJobs;
using ::evolora::testing::IsOk;
using ::evolora::testing::MakeJob;
using ::evolora::testing::OddJobs;
using ::evolora::testing::RowsOf;
using ::evolora::testing::RunAll;
using ::evolora::testing::SpecialJobs;
using ::evolora::testing::StatusIs;
using ::evolora::testing::TempDir;
using ::evolora::testing::WideBase;
using ::testing::HasSubstr;

TEST(ResidentTrainer, DropoutMagnitudesAndPreferencesStandBesidePlainJobs) {
  const auto base = testing::RandomWeights(testing::SmallConfig(), 7);
  const std::vector<QueuedJob> jobs = SpecialJobs(base);
  ExpectAllAsAlone(jobs, RunAll(base, jobs));
}

TEST(ResidentTrainer, JobsThatAskAFrozenModelStandBesidePlainOnes) {
  const auto base = testing::RandomWeights(testing::SmallConfig(), 7);
  const std::vector<QueuedJob> jobs = FrozenModelJobs(base);
  for (const int64_t max_adapters : {8, 2}) {  // 2: some join while others are at work
    SCOPED_TRACE(max_adapters);
    ExpectAllAsAlone(jobs, RunAll(base, jobs, {.max_adapters = max_adapters}));
  }
}

TEST(ResidentTrainer, ModulesSavedAsAWholeStandBesidePlainJobs) {
  for (const bool tied : {false, true}) {
    SCOPED_TRACE(tied);
    LlamaConfig config = testing::SmallConfig();
    config.tied_head = tied;
    const auto base = testing::RandomWeights(config, 7);
    std::vector<QueuedJob> jobs = {MakeJob(base, "all", 2, 8), MakeJob(base, "plain", 5, 8),
                                   MakeJob(base, "norms", 3, 6), MakeJob(base, "embedding", 4, 6)};
    jobs[0].job.recipe.modules_to_save = {"lm_head", "embed_tokens", "norm"};
    jobs[2].job.recipe.modules_to_save = {"1.post_attention_layernorm", "model.norm"};
    jobs[3].job.recipe.modules_to_save = {"embed_tokens"};
    for (QueuedJob& job : jobs) job.held_out = RowsOf(config, 4, 77);
    const std::vector<JobOutcome> outcomes = RunAll(base, jobs);
    ExpectAllAsAlone(jobs, outcomes);
    for (size_t i = 0; i < jobs.size(); ++i) {
      const std::vector<JobOutcome> alone = RunAll(base, {jobs[i]});
      EXPECT_EQ(outcomes[i].held_out_loss, alone.front().held_out_loss) << jobs[i].name;
    }
  }
}

TEST(ResidentTrainer, JobsShareABaseInFewBits) {
  const auto wide = WideBase();
  for (const WeightStorage storage :
       {WeightStorage::kBf16, WeightStorage::kInt8, WeightStorage::kQ4}) {
    SCOPED_TRACE(WeightStorageName(storage));
    const auto base = std::make_shared<const LlamaWeights>(CompactCopy(*wide, storage));
    std::vector<QueuedJob> jobs = OddJobs(base);
    jobs[3].job.recipe.modules_to_save = {"lm_head", "model.norm"};
    jobs[3].job.recipe.weight_decay = 0;
    for (QueuedJob& job : jobs) job.job.recipe.base_weights = storage;
    ExpectAllAsAlone(jobs, RunAll(base, jobs));
    jobs.resize(1);
    jobs[0].job.recipe.base_weights = WeightStorage::kFp32;
    EXPECT_THAT(RunAll(base, jobs).front().trained,
                StatusIs(absl::StatusCode::kInvalidArgument,
                         HasSubstr("recipe.base_weights: fp32, the base in memory is")));
  }
}

// Wide enough for products by digits, where there are such.
TEST(ResidentTrainer, JobsShareAWideBaseInFewBits) {
  for (const WeightStorage storage : {WeightStorage::kInt8, WeightStorage::kQ4}) {
    SCOPED_TRACE(WeightStorageName(storage));
    const auto base =
        std::make_shared<const LlamaWeights>(CompactCopy(*WideBase(264, 300), storage));
    std::vector<QueuedJob> jobs = OddJobs(base);
    for (QueuedJob& job : jobs) job.job.recipe.base_weights = storage;
    ExpectAllAsAlone(jobs, RunAll(base, jobs));
  }
}

TEST(ResidentTrainer, EveryJobTakesTheStepsOfTheAutogradReference) {
  const auto base = WideBase();
  std::vector<QueuedJob> jobs = OddJobs(base);
  const std::vector<JobOutcome> outcomes = RunAll(base, jobs);
  for (size_t i = 0; i < jobs.size(); ++i) {
    SCOPED_TRACE(jobs[i].name);
    jobs[i].job.recipe.path = TrainingPath::kReference;
    ASSERT_OK_AND_ASSIGN(const TrainedAdapter reference, Alone(jobs[i]));
    ASSERT_THAT(outcomes[i].trained.status(), IsOk());
    const std::vector<StepReport>& history = outcomes[i].trained->history;
    ASSERT_EQ(history.size(), reference.history.size());
    for (size_t s = 0; s < history.size(); ++s) {
      EXPECT_NEAR(history[s].loss / reference.history[s].loss, 1, 1e-5) << "step " << s;
      EXPECT_NEAR(history[s].grad_norm / reference.history[s].grad_norm, 1, 1e-4) << "step " << s;
    }
  }
}

TEST(ResidentTrainer, JobsInBf16HaveTheBytesTheyHaveAlone) {
  const auto base = WideBase();
  const auto stored =
      std::make_shared<const LlamaWeights>(CompactCopy(*base, WeightStorage::kBf16));
  for (const auto& loaded : {base, stored}) {
    std::vector<QueuedJob> jobs = OddJobs(loaded);
    for (size_t i = 0; i < jobs.size(); ++i) {
      jobs[i].job.recipe.precision =
          i % 2 == 0 ? TrainingPrecision::kBf16 : TrainingPrecision::kBf16Autocast;
    }
    ExpectAllAsAlone(jobs, RunAll(loaded, jobs));
  }
}

TEST(ResidentTrainer, ADoraInBf16IsRefused) {
  const auto base = WideBase();
  QueuedJob job = MakeJob(base, "dora", 2, 4);
  job.job.recipe.use_dora = true;
  job.job.recipe.precision = TrainingPrecision::kBf16;
  EXPECT_THAT(RunAll(base, {job})[0].trained,
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("use_dora")));
}

TEST(ResidentTrainer, RefusesWhatItDoesNotShare) {
  const auto base = testing::RandomWeights(testing::SmallConfig(), 7);
  const QueuedJob good = MakeJob(base, "good", 2, 4);
  std::vector<QueuedJob> jobs(8, good);
  for (size_t i = 0; i < jobs.size(); ++i) jobs[i].name = absl::StrCat(i);
  jobs[0].job.recipe.path = TrainingPath::kReference;
  jobs[1].job.recipe.init_lora_weights = LoraInit::kPissa;
  jobs[2].options.device = "cuda";
  jobs[3].job.base = testing::RandomWeights(testing::SmallConfig(), 8);
  const TempDir work;
  jobs[4].options.work_dir = jobs[5].options.work_dir = work.path();
  jobs[6].job.recipe.precision = TrainingPrecision::kBf16;  // beside job 4
  jobs[7].job.recipe.base_weights = WeightStorage::kInt8;
  const std::vector<JobOutcome> outcomes = RunAll(base, jobs);
  EXPECT_THAT(outcomes[7].trained,
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("recipe.base_weights: int8, the base in memory is fp32")));
  EXPECT_THAT(outcomes[6].trained,
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("computes in bf16, those before it in fp32")));
  EXPECT_THAT(outcomes[2].trained,
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("job 2: its device is cuda, the trainer's is cpu")));
  for (const size_t i : {0, 1}) {
    EXPECT_THAT(outcomes[i].trained,
                StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("alone")));
  }
  EXPECT_THAT(outcomes[3].trained, StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("base")));
  EXPECT_THAT(outcomes[4].trained, IsOk());
  EXPECT_THAT(outcomes[5].trained,
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr(work.path())));
}

}  // namespace
}  // namespace evolora
