#include "evolora/trainers/run_forecast.h"

#include <string>
#include <vector>

#include "evolora/core/file_system.h"
#include "evolora/core/random.h"
#include "evolora/model/compact_weights.h"
#include "model/random_model.h"
#include "support/fake_clock.h"
#include "support/status_matchers.h"

namespace evolora {
namespace {

using ::evolora::testing::FakeClock;
using ::evolora::testing::StatusIs;
using ::testing::HasSubstr;

// Rows of 4 to 13 tokens, some on a shared prefix, every third one replay.
TrainingJob Job(int64_t num_rows) {
  TrainingJob job;
  job.base = testing::RandomWeights(testing::SmallConfig(), 7);
  Random random(11);
  for (int64_t i = 0; i < num_rows; ++i) {
    TrainingRow row;
    if (i % 2 == 0) row.ids = {5, 6, 7, 8};
    const uint64_t length = row.ids.size() + 4 + random.NextBelow(6);
    while (row.ids.size() < length) {
      row.ids.push_back(static_cast<TokenId>(random.NextBelow(37)));
    }
    row.labels = row.ids;
    row.labels[0] = row.labels[1] = kIgnoreLabel;
    row.replay = i % 3 == 0;
    job.rows.push_back(row);
  }
  job.recipe.rank = 3;
  job.recipe.epochs = 3;
  job.recipe.rows_per_step = 5;
  job.recipe.tokens_per_micro_batch = 24;
  return job;
}

TEST(ForecastRun, CountsMagnitudesTheRestOfTheBaseAndUnsharedPrefixes) {
  TrainingJob job = Job(17);
  ASSERT_OK_AND_ASSIGN(const RunForecast plain, ForecastRun(job));
  job.recipe.lora_dropout = 0.1;
  ASSERT_OK_AND_ASSIGN(const RunForecast dropout, ForecastRun(job));
  EXPECT_GT(plain.shared_prefix_tokens(), 0);
  EXPECT_EQ(dropout.shared_prefix_tokens(), 0);
  job.recipe.lora_dropout = 0;
  job.recipe.use_dora = true;
  ASSERT_OK_AND_ASSIGN(const RunForecast dora, ForecastRun(job));
  const FakeClock clock;
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter trained,
                       TrainLora(job, {}, PosixFileSystem(), clock, {}));
  int64_t magnitudes = 0;
  for (const LoraModule& module : trained.adapter.modules) {
    magnitudes += static_cast<int64_t>(module.magnitude.size());
  }
  EXPECT_EQ(dora.trainable_parameters, plain.trainable_parameters + magnitudes);
  EXPECT_GT(dora.memory.arena, plain.memory.arena);
  job.recipe.use_dora = false;
  job.recipe.init_lora_weights = LoraInit::kPissa;
  ASSERT_OK_AND_ASSIGN(const RunForecast pissa, ForecastRun(job));
  EXPECT_GT(pissa.memory.weights, plain.memory.weights);
}

TEST(ForecastRun, CountsABaseInFewBitsAndItsSourceWhereThatStays) {
  TrainingJob job = Job(17);
  ASSERT_OK_AND_ASSIGN(const RunForecast plain, ForecastRun(job));
  job.recipe.base_weights = WeightStorage::kInt8;
  ASSERT_OK_AND_ASSIGN(const RunForecast beside, ForecastRun(job));
  const int64_t compact = CompactBytes(job.base->config, WeightStorage::kInt8);
  EXPECT_EQ(beside.memory.weights, plain.memory.weights + compact);
  EXPECT_EQ(beside.memory.packed, plain.memory.packed);
  job.base = std::make_shared<const LlamaWeights>(CompactCopy(*job.base, WeightStorage::kInt8));
  ASSERT_OK_AND_ASSIGN(const RunForecast alone, ForecastRun(job));
  int64_t vectors = 0;
  for (const NamedShape& entry : TensorShapes(job.base->config)) {
    if (entry.shape.size() == 1) vectors += entry.shape[0] * 4;
  }
  EXPECT_EQ(alone.memory.weights, vectors + compact);
  EXPECT_EQ(alone.memory.packed, beside.memory.packed);
  EXPECT_EQ(alone.memory.arena, plain.memory.arena);
}

TEST(ForecastRun, CountsWhatARealRunReports) {
  for (const TrainingPath path :
       {TrainingPath::kFast, TrainingPath::kDevice, TrainingPath::kReference}) {
    for (const int64_t max_steps : {0, 4}) {
      SCOPED_TRACE(max_steps);
      TrainingJob job = Job(17);
      job.recipe.path = path;
      job.recipe.max_steps = max_steps;
      ASSERT_OK_AND_ASSIGN(const RunForecast forecast, ForecastRun(job));
      const FakeClock clock;
      ASSERT_OK_AND_ASSIGN(const TrainedAdapter trained,
                           TrainLora(job, {}, PosixFileSystem(), clock, {}));
      int64_t tokens = 0, labelled = 0, parameters = 0;
      for (const StepReport& step : trained.history) {
        tokens += step.tokens;
        labelled += step.labelled_tokens;
      }
      for (const LoraModule& module : trained.adapter.modules) {
        parameters += static_cast<int64_t>(module.a.size() + module.b.size());
      }
      EXPECT_EQ(forecast.total_steps, static_cast<int64_t>(trained.history.size()));
      EXPECT_EQ(forecast.tokens, tokens);
      EXPECT_EQ(forecast.labelled_tokens, labelled);
      EXPECT_EQ(forecast.trainable_parameters, parameters);
      EXPECT_EQ(forecast.flops, trained.total_flops);
    }
  }
}

TEST(ForecastRun, SaysWhatPackingAndSharingSave) {
  TrainingJob job;
  job.base = testing::RandomWeights(testing::SmallConfig(), 7);
  const auto add = [&](std::vector<TokenId> ids) { job.rows.push_back({ids, ids}); };
  add({1, 2, 3, 4});
  add({1, 2, 6, 5});
  add({1, 2});
  job.recipe.rank = 2;
  job.recipe.epochs = 1;
  job.recipe.rows_per_step = 3;
  ASSERT_OK_AND_ASSIGN(const RunForecast fast, ForecastRun(job));
  EXPECT_EQ(fast.num_rows, 3);
  EXPECT_EQ(fast.data_tokens, 10);
  EXPECT_EQ(fast.data_labelled_tokens, 7);
  EXPECT_EQ(fast.tokens, 10);
  EXPECT_EQ(fast.padded_tokens, 12);
  EXPECT_DOUBLE_EQ(fast.padding_share(), 1 - 10.0 / 12);
  EXPECT_EQ(fast.computed_tokens, 4);  // 1 2, then 3 and 6: what follows is predicted alone
  EXPECT_EQ(fast.tail_tokens, 3);
  EXPECT_EQ(fast.shared_prefix_tokens(), 3);
  EXPECT_EQ(fast.num_micro_batches, 1);

  ASSERT_OK_AND_ASSIGN(const RunForecast cuda, ForecastRun(job, {.device = "cuda"}));
  EXPECT_EQ(cuda.computed_tokens, 4);
  EXPECT_THAT(cuda.memory_basis, HasSubstr("on the device the driver's context"));

  job.recipe.tokens_per_micro_batch = 1;  // each row alone: nothing to share
  ASSERT_OK_AND_ASSIGN(const RunForecast alone, ForecastRun(job));
  EXPECT_EQ(alone.computed_tokens, 7);
  EXPECT_EQ(alone.shared_prefix_tokens(), 0);
  EXPECT_EQ(alone.num_micro_batches, 3);
  EXPECT_LT(alone.memory.arena, fast.memory.arena);

  job.recipe.tokens_per_micro_batch = 1000;
  job.recipe.path = TrainingPath::kReference;
  ASSERT_OK_AND_ASSIGN(const RunForecast padded, ForecastRun(job));
  EXPECT_EQ(padded.computed_tokens, 12);
  EXPECT_EQ(padded.shared_prefix_tokens(), 0);
  EXPECT_EQ(padded.tail_tokens, 0);
  EXPECT_EQ(padded.memory.packed, 0);
  EXPECT_THAT(padded.memory_basis, HasSubstr("reference path's activations are not counted"));
}

TEST(ForecastRun, MemoryFollowsTheShapes) {
  TrainingJob job = Job(12);
  ASSERT_OK_AND_ASSIGN(const RunForecast forecast, ForecastRun(job));
  EXPECT_EQ(forecast.memory.weights, 4 * CountParameters(job.base->config));
  EXPECT_EQ(forecast.memory.optimiser, 16 * forecast.trainable_parameters);
  job.recipe.rank = 6;
  ASSERT_OK_AND_ASSIGN(const RunForecast twice, ForecastRun(job));
  EXPECT_EQ(twice.memory.optimiser, 2 * forecast.memory.optimiser);
  EXPECT_GT(twice.memory.arena, forecast.memory.arena);
  // Activations below the lowest adapted layer are not kept.
  job.recipe.target_modules = {"model.layers.2.mlp.down_proj"};
  ASSERT_OK_AND_ASSIGN(const RunForecast top, ForecastRun(job));
  EXPECT_LT(top.memory.arena, forecast.memory.arena);
}

TEST(ForecastRun, RefusesWhatARunRefuses) {
  TrainingJob job = Job(6);
  job.recipe.rank = 400;
  EXPECT_THAT(ForecastRun(job),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("rank 400 exceeds layer")));
  job.rows.clear();
  EXPECT_THAT(ForecastRun(job), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("0 rows")));
}

TEST(MeasureGflops, GivesARateOnARealClockAndNoneOnAStoppedOne) {
  const TrainingJob job = Job(6);
  EXPECT_GT(MeasureGflops(job, SystemClock()), 0.01);
  const FakeClock stopped;
  EXPECT_EQ(MeasureGflops(job, stopped), 0);
}

}  // namespace
}  // namespace evolora
