// Whole runs of the fast path in bf16.
#include <cmath>
#include <memory>
#include <vector>

#include "c10/util/BFloat16.h"
#include "evolora/model/compact_weights.h"
#include "evolora/trainers/lora_trainer.h"
#include "evolora/trainers/run_forecast.h"
#include "support/status_matchers.h"
#include "support/temp_dir.h"
#include "trainers/tiny_job.h"

namespace evolora {
namespace {

using ::evolora::testing::StatusIs;
using ::evolora::testing::StopAfter;
using ::evolora::testing::TempDir;
using ::evolora::testing::TinyDpoJob;
using ::evolora::testing::TinyJob;
using ::evolora::testing::Train;
using ::testing::HasSubstr;

constexpr TrainingPrecision kRegimes[] = {TrainingPrecision::kBf16Autocast,
                                          TrainingPrecision::kBf16};

TrainingJob JobIn(TrainingPrecision precision) {
  TrainingJob job = TinyJob();
  job.recipe.precision = precision;
  return job;
}

bool AreBf16(const LoraAdapter& adapter) {
  for (const LoraModule& module : adapter.modules) {
    for (const auto* values : {&module.a, &module.b}) {
      for (const float value : *values) {
        if (static_cast<float>(c10::BFloat16(value)) != value) return false;
      }
    }
  }
  return true;
}

// Nine steps at a high rate: roundings of 2^-9 that do not run away.
TEST(Bf16Training, TakesTheStepsOfTheReferenceWithinItsRounding) {
  for (const TrainingPrecision precision : kRegimes) {
    for (TrainingJob job : {TinyJob(), TinyDpoJob()}) {
      const bool dpo = job.recipe.objective.kind == ObjectiveKind::kDpo;
      ASSERT_OK_AND_ASSIGN(const TrainedAdapter exact, Train(job));
      job.recipe.precision = precision;
      ASSERT_OK_AND_ASSIGN(const TrainedAdapter fast, Train(job));
      job.recipe.path = TrainingPath::kReference;
      ASSERT_OK_AND_ASSIGN(const TrainedAdapter reference, Train(job));
      ASSERT_EQ(fast.history.size(), reference.history.size());
      for (size_t i = 0; i < fast.history.size(); ++i) {
        SCOPED_TRACE(i);
        const double loss = reference.history[i].loss;
        EXPECT_NEAR(fast.history[i].loss, loss, (dpo ? 2e-2 : 4e-3) * loss);
        EXPECT_NEAR(fast.history[i].grad_norm / reference.history[i].grad_norm, 1, 0.04);
      }
      EXPECT_NE(fast.history.back().loss, exact.history.back().loss);
      EXPECT_EQ(AreBf16(fast.adapter), precision == TrainingPrecision::kBf16);
    }
  }
}

TEST(Bf16Training, StoppedAndResumedGivesTheBytesOfTheUnbrokenRun) {
  for (const TrainingPrecision precision : kRegimes) {
    const TrainingJob job = JobIn(precision);
    ASSERT_OK_AND_ASSIGN(const TrainedAdapter unbroken, Train(job));
    const TempDir work;
    const StopAfter stop(4, work.path());
    ASSERT_THAT(Train(job, stop.options(), stop.token()),
                StatusIs(absl::StatusCode::kCancelled, HasSubstr("stopped after step")));
    ASSERT_OK_AND_ASSIGN(const TrainedAdapter resumed,
                         Train(job, {.work_dir = work.path(), .resume = true}));
    EXPECT_EQ(AdapterDigest(resumed.adapter), AdapterDigest(unbroken.adapter));
    ASSERT_EQ(resumed.history.size(), unbroken.history.size());
    for (size_t i = 0; i < resumed.history.size(); ++i) {
      EXPECT_EQ(resumed.history[i].loss, unbroken.history[i].loss);
    }
    TrainingJob other = job;
    other.recipe.precision = TrainingPrecision::kFp32;
    EXPECT_THAT(
        Train(other, {.work_dir = work.path(), .resume = true}).status(),
        StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("belongs to another job")));
  }
}

TEST(Bf16Training, ABaseLoadedInBf16TakesTheSameStepsInLessMemory) {
  TrainingJob job = JobIn(TrainingPrecision::kBf16Autocast);
  ASSERT_EQ(StorageToLoad(job.recipe, "cpu"), WeightStorage::kBf16);
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter wide, Train(job));
  ASSERT_OK_AND_ASSIGN(const RunForecast beside, ForecastRun(job));
  const int64_t arena_before = beside.memory.arena;
  job.base = std::make_shared<const LlamaWeights>(CompactCopy(*job.base, WeightStorage::kBf16));
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter compact, Train(job));
  EXPECT_EQ(AdapterDigest(wide.adapter), AdapterDigest(compact.adapter));
  ASSERT_OK_AND_ASSIGN(const RunForecast forecast, ForecastRun(job));
  int64_t vectors = 0;
  for (const NamedShape& entry : TensorShapes(job.base->config)) {
    if (entry.shape.size() == 1) vectors += entry.shape[0] * 4;
  }
  EXPECT_EQ(forecast.memory.weights,
            vectors + CompactBytes(job.base->config, WeightStorage::kBf16));
  EXPECT_EQ(forecast.memory.arena, arena_before);
  job.recipe.precision = TrainingPrecision::kFp32;
  EXPECT_THAT(Train(job).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("the base was loaded as")));
}

TEST(StorageToLoad, IsExactWhereTheFastPathComputesWithBlocks) {
  LoraRecipe recipe;
  EXPECT_EQ(StorageToLoad(recipe, "cpu"), WeightStorage::kExact);
  EXPECT_EQ(StorageToLoad(recipe, "cuda:0"), WeightStorage::kFp32);
  LoraRecipe dora, pissa, full, reference, device, bf16;
  dora.use_dora = true;
  pissa.init_lora_weights = LoraInit::kPissa;
  full.method = TrainingMethod::kFull;
  reference.path = TrainingPath::kReference;
  device.path = TrainingPath::kDevice;
  for (const LoraRecipe& other : {dora, pissa, full, reference, device}) {
    EXPECT_EQ(StorageToLoad(other, "cpu"), WeightStorage::kFp32);
    EXPECT_EQ(StorageToLoad({recipe, other}, "cpu"), WeightStorage::kFp32);
    EXPECT_EQ(StorageToLoad({other, recipe}, "cpu"), WeightStorage::kFp32);
  }
  bf16.precision = TrainingPrecision::kBf16;
  EXPECT_EQ(StorageToLoad({recipe, bf16}, "cpu"), WeightStorage::kFp32);
  EXPECT_EQ(StorageToLoad({recipe, recipe}, "cpu"), WeightStorage::kExact);
  recipe.base_weights = WeightStorage::kQ4;
  EXPECT_EQ(StorageToLoad({recipe, dora}, "cpu"), WeightStorage::kQ4);
}

TEST(TakesBase, SaysWhichBasesHoldTheNumbersOfARun) {
  LoraRecipe fp32, bf16, dora, q4;
  bf16.precision = TrainingPrecision::kBf16Autocast;
  dora.use_dora = true;
  q4.base_weights = WeightStorage::kQ4;
  using enum WeightStorage;
  EXPECT_TRUE(TakesBase(fp32, "cpu", kFp32) && TakesBase(fp32, "cpu", kExact));
  EXPECT_FALSE(TakesBase(fp32, "cpu", kBf16) || TakesBase(fp32, "cuda:0", kExact));
  EXPECT_TRUE(TakesBase(bf16, "cpu", kFp32) && TakesBase(bf16, "cpu", kBf16));
  EXPECT_FALSE(TakesBase(bf16, "cpu", kExact));  // whose embedding it would not round
  EXPECT_TRUE(TakesBase(dora, "cpu", kFp32));
  EXPECT_FALSE(TakesBase(dora, "cpu", kExact));
  EXPECT_TRUE(TakesBase(q4, "cpu", kQ4));
  EXPECT_FALSE(TakesBase(q4, "cpu", kExact) || TakesBase(q4, "cpu", kFp32));
}

TEST(StorageToLoad, IsBf16WhereTheFastPathRounds) {
  LoraRecipe recipe;
  recipe.precision = TrainingPrecision::kBf16;
  EXPECT_EQ(StorageToLoad(recipe, "cpu"), WeightStorage::kBf16);
  EXPECT_EQ(StorageToLoad(recipe, "cuda:1"), WeightStorage::kFp32);
  recipe.base_weights = WeightStorage::kInt8;
  EXPECT_EQ(StorageToLoad(recipe, "cpu"), WeightStorage::kInt8);
  recipe.base_weights = WeightStorage::kFp32;
  recipe.path = TrainingPath::kReference;
  EXPECT_EQ(StorageToLoad(recipe, "cpu"), WeightStorage::kFp32);
}

TEST(Bf16Training, WhatReadsTheBasesOwnNumbersIsRefused) {
  TrainingJob job = JobIn(TrainingPrecision::kBf16);
  job.recipe.use_dora = true;
  EXPECT_THAT(Train(job).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("use_dora")));
  job.recipe.use_dora = false;
  job.recipe.init_lora_weights = LoraInit::kPissa;
  EXPECT_THAT(Train(job).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("init_lora_weights")));
}

}  // namespace
}  // namespace evolora
