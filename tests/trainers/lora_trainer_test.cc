#include "evolora/trainers/lora_trainer.h"

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "evolora/model/compact_weights.h"
#include "evolora/model/llama_weights.h"
#include "evolora/trainers/run_forecast.h"
#include "support/status_matchers.h"
#include "trainers/tiny_job.h"

namespace evolora {
namespace {

using ::evolora::testing::StatusIs;
using ::evolora::testing::TinyDpoJob;
using ::evolora::testing::TinyJob;
using ::evolora::testing::Train;
using ::testing::HasSubstr;

TEST(TrainLora, LossFallsAndEveryModuleLearns) {
  TrainingJob job = TinyJob();
  job.recipe.epochs = 20;
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter trained, Train(job));
  ASSERT_EQ(trained.history.size(), 60u);
  EXPECT_LT(trained.history.back().loss, 0.7 * trained.history.front().loss);
  EXPECT_EQ(trained.adapter.modules.size(), LinearModulePaths(job.base->config).size());
  for (const LoraModule& module : trained.adapter.modules) {
    double largest = 0;
    for (const float b : module.b) largest = std::max(largest, std::abs(static_cast<double>(b)));
    EXPECT_GT(largest, 0) << module.path;
    EXPECT_DOUBLE_EQ(module.scale, 2.0);
  }
}

TEST(TrainLora, SameJobGivesTheSameBytes) {
  const TrainingJob job = TinyJob();
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter first, Train(job));
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter second, Train(job));
  EXPECT_EQ(AdapterDigest(first.adapter), AdapterDigest(second.adapter));
}

TEST(TrainLora, MicroBatchingDoesNotChangeTheStep) {
  TrainingJob whole = TinyJob();
  whole.recipe.tokens_per_micro_batch = 1000;
  TrainingJob cut = whole;
  cut.recipe.tokens_per_micro_batch = 1;
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter a, Train(whole));
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter b, Train(cut));
  for (size_t i = 0; i < a.history.size(); ++i) {
    EXPECT_NEAR(a.history[i].loss, b.history[i].loss, 1e-5 * a.history[i].loss) << "step " << i;
    EXPECT_NEAR(a.history[i].grad_norm, b.history[i].grad_norm, 1e-4 * a.history[i].grad_norm);
  }
}

TEST(TrainLora, BothPathsTakeTheSameSteps) {
  const TrainingJob fast = TinyJob();
  TrainingJob reference = fast;
  reference.recipe.path = TrainingPath::kReference;
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter a, Train(fast));
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter b, Train(reference));
  for (size_t i = 0; i < a.history.size(); ++i) {
    EXPECT_NEAR(a.history[i].loss, b.history[i].loss, 1e-5 * b.history[i].loss) << "step " << i;
    EXPECT_NEAR(a.history[i].grad_norm, b.history[i].grad_norm, 1e-4 * b.history[i].grad_norm);
  }
}

TEST(TrainLora, ABaseInFewBitsIsLoadedOrMadeAndTakesTheSameStepsOnEveryPath) {
  for (const WeightStorage storage :
       {WeightStorage::kBf16, WeightStorage::kInt8, WeightStorage::kQ4}) {
    SCOPED_TRACE(WeightStorageName(storage));
    TrainingJob job = TinyJob();
    job.recipe.base_weights = storage;
    ASSERT_OK_AND_ASSIGN(const TrainedAdapter made, Train(job));
    job.base = std::make_shared<const LlamaWeights>(CompactCopy(*job.base, storage));
    ASSERT_OK_AND_ASSIGN(const TrainedAdapter loaded, Train(job));
    EXPECT_EQ(AdapterDigest(made.adapter), AdapterDigest(loaded.adapter));
    for (const TrainingPath path : {TrainingPath::kReference, TrainingPath::kDevice}) {
      job.recipe.path = path;
      ASSERT_OK_AND_ASSIGN(const TrainedAdapter other, Train(job));
      for (size_t i = 0; i < made.history.size(); ++i) {
        EXPECT_NEAR(made.history[i].loss, other.history[i].loss, 1e-5 * made.history[i].loss);
      }
    }
    job.recipe.base_weights = WeightStorage::kFp32;
    EXPECT_THAT(Train(job).status(),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("the base was loaded as")));
  }
}

TEST(TrainLora, ABaseInTheBlocksOfItsFileTakesTheStepsOfItsNumbers) {
  TrainingJob job = TinyJob();
  LlamaWeights exact = CompactCopy(*job.base, WeightStorage::kQ4);
  const auto blocks = std::make_shared<CompactWeights>(*exact.compact);
  blocks->storage = WeightStorage::kExact;
  exact.compact = blocks;
  job.base = std::make_shared<const LlamaWeights>(WidenedCopy(exact));
  ASSERT_OK_AND_ASSIGN(const RunForecast wide_forecast, ForecastRun(job));
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter wide, Train(job));
  job.base = std::make_shared<const LlamaWeights>(exact);
  ASSERT_OK_AND_ASSIGN(const RunForecast forecast, ForecastRun(job));
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter trained, Train(job));
  for (size_t i = 0; i < wide.history.size(); ++i) {
    EXPECT_NEAR(trained.history[i].loss, wide.history[i].loss, 1e-6 * wide.history[i].loss);
  }
  EXPECT_LT(forecast.memory.weights, wide_forecast.memory.weights / 3);
  for (const bool dora : {true, false}) {
    job.recipe.use_dora = dora;
    job.recipe.init_lora_weights = dora ? LoraInit::kKaiming : LoraInit::kPissa;
    EXPECT_THAT(Train(job).status(), StatusIs(absl::StatusCode::kInvalidArgument,
                                              HasSubstr("the base was loaded as exact")));
  }
}

TEST(TrainLora, SavedModulesLearnAndGoOnFromWhereTheyWere) {
  TrainingJob job = TinyJob();
  job.recipe.modules_to_save = {"lm_head", "norm"};
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter trained, Train(job));
  ASSERT_EQ(trained.adapter.saved_modules.size(), 8u);  // the head, and 7 norms of 3 layers
  for (const SavedModule& module : trained.adapter.saved_modules) {
    const at::Tensor own = FindReplaceable(*job.base, module.path);
    const float* from = own.const_data_ptr<float>();
    EXPECT_NE(module.weight, std::vector<float>(from, from + own.numel())) << module.path;
  }
  job.init = trained.adapter;
  job.recipe.learning_rate = 0;
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter same, Train(job));
  EXPECT_EQ(AdapterDigest(same.adapter), AdapterDigest(trained.adapter));
  EXPECT_LT(same.history.front().loss, trained.history.front().loss);
  job.recipe.modules_to_save = {"norm"};
  EXPECT_THAT(Train(job).status(), StatusIs(absl::StatusCode::kInvalidArgument,
                                            HasSubstr("it saves lm_head as a whole")));
  job.init.reset();
  job.recipe.modules_to_save = {"up_proj"};
  EXPECT_THAT(Train(job).status(), StatusIs(absl::StatusCode::kInvalidArgument,
                                            HasSubstr("a linear layer of the decoder")));
  job.recipe.modules_to_save = {"score"};
  EXPECT_THAT(Train(job).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("'score' matches neither")));
}

TEST(TrainLora, PreferencesAreLearnt) {
  TrainingJob job = TinyDpoJob();
  job.recipe.epochs = 20;
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter trained, Train(job));
  EXPECT_NEAR(trained.history.front().loss, std::log(2.0), 1e-6);
  EXPECT_NEAR(trained.history.front().figures.at("reward_margin"), 0, 1e-6);
  EXPECT_LT(trained.history.back().loss, 0.5);
  EXPECT_GT(trained.history.back().figures.at("reward_margin"), 0.3);
}

TEST(TrainLora, RefusesTargetsThatMatchNothingAndRanksAboveTheLayer) {
  TrainingJob job = TinyJob();
  job.recipe.target_modules = {"q_proj", "w1"};
  EXPECT_THAT(Train(job), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("'w1'")));
  job.recipe.target_modules = {"q_proj"};
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter trained, Train(job));
  EXPECT_EQ(trained.adapter.modules.size(), static_cast<size_t>(job.base->config.num_layers));
  job.recipe.rank = 500;
  EXPECT_THAT(Train(job), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("rank 500")));
}

TEST(TrainLora, NonFiniteLossAborts) {
  TrainingJob job = TinyJob();
  job.recipe.learning_rate = 10;
  job.recipe.max_grad_norm = 0;
  job.recipe.epochs = 400;
  job.recipe.schedule = LearningRateSchedule::kConstant;
  LoraAdapter huge;
  {
    TrainingJob start = TinyJob();
    ASSERT_OK_AND_ASSIGN(const TrainedAdapter trained, Train(start));
    huge = trained.adapter;
    for (LoraModule& module : huge.modules) {
      for (float& b : module.b) b *= 1e30f;
    }
  }
  job.init = huge;
  EXPECT_THAT(Train(job), StatusIs(absl::StatusCode::kAborted, HasSubstr("step 1")));
}

}  // namespace
}  // namespace evolora
