// The forecast of the device path's memory against what a run on the CPU allocates.
#include "device/device_forecast.h"

#include <algorithm>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "ATen/Parallel.h"
#include "adapter_plan.h"
#include "c10/core/Allocator.h"
#include "c10/util/ThreadLocalDebugInfo.h"
#include "evolora/core/file_system.h"
#include "evolora/trainers/full_trainer.h"
#include "evolora/trainers/lora_trainer.h"
#include "evolora/trainers/run_forecast.h"
#include "gtest/gtest.h"
#include "support/fake_clock.h"
#include "support/status_matchers.h"
#include "trainers/gradient_case.h"

namespace evolora {
namespace {

// The most that LibTorch's allocations of this thread came to.
class PeakMemory : public c10::MemoryReportingInfoBase {
 public:
  void reportMemoryUsage(void* /*ptr*/, int64_t bytes, size_t /*allocated*/, size_t /*reserved*/,
                         c10::Device /*device*/) override {
    now_ += bytes;
    peak = std::max(peak, now_);
  }
  bool memoryProfilingEnabled() const override { return true; }
  int64_t peak = 0;

 private:
  int64_t now_ = 0;
};

int64_t PeakOf(const std::function<void()>& body) {
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const auto memory = std::make_shared<PeakMemory>();
  {
    const c10::DebugInfoGuard guard(c10::DebugInfoKind::PROFILER_STATE, memory);
    body();
  }
  at::set_num_threads(threads);
  return memory->peak;
}

TrainingJob Job(const std::function<void(LlamaConfig&, LoraRecipe&)>& change) {
  LlamaConfig config = testing::SmallConfig();
  config.vocab_size = 800;
  config.hidden_size = 96;
  config.intermediate_size = 200;
  config.num_layers = 4;
  config.head_dim = 16;
  TrainingJob job;
  job.recipe.path = TrainingPath::kDevice;
  job.recipe.rank = 8;
  job.recipe.epochs = 1;
  job.recipe.rows_per_step = 16;
  job.recipe.replay_share = 0;
  job.recipe.require_end_of_turn = false;
  change(config, job.recipe);
  job.base = testing::RandomWeights(config, 7);
  for (uint64_t i = 0; i < 16; ++i) {
    job.rows.push_back(testing::RandomRow(config, 40 + static_cast<int64_t>(i), i));
  }
  return job;
}

void MakeFull(LlamaConfig& /*config*/, LoraRecipe& recipe) {
  recipe.method = TrainingMethod::kFull;
  recipe.rank = LoraRecipe().rank;
}

struct Row {
  const char* name;
  std::function<void(LlamaConfig&, LoraRecipe&)> change;
};

TEST(ForecastDeviceMemory, IsNearWhatARunAllocates) {
  const std::vector<Row> rows = {
      {"plain", [](LlamaConfig&, LoraRecipe&) {}},
      {"one key head, norms of q and k",
       [](LlamaConfig& c, LoraRecipe&) {
         c.num_kv_heads = 1;
         c.qk_norm = true;
       }},
      {"tied head, small batches",
       [](LlamaConfig& c, LoraRecipe& r) {
         c.tied_head = true;
         r.tokens_per_micro_batch = 200;
       }},
      {"magnitudes", [](LlamaConfig&, LoraRecipe& r) { r.use_dora = true; }},
      {"dropout", [](LlamaConfig&, LoraRecipe& r) { r.lora_dropout = 0.1; }},
      {"the last layers",
       [](LlamaConfig&, LoraRecipe& r) {
         r.target_modules = {"model.layers.3.self_attn.q_proj", "model.layers.2.mlp.down_proj"};
       }},
      {"saved head", [](LlamaConfig&, LoraRecipe& r) { r.modules_to_save = {"lm_head"}; }},
      {"wide MLP", [](LlamaConfig& c, LoraRecipe&) { c.intermediate_size = 1500; }},
      {"all weights", MakeFull},
      {"all weights, tied, biases, few tokens",
       [](LlamaConfig& c, LoraRecipe& r) {
         MakeFull(c, r);
         c.tied_head = true;
         c.qkv_bias = true;
         c.qk_norm = true;
         r.tokens_per_micro_batch = 200;
       }},
  };
  for (const Row& row : rows) {
    SCOPED_TRACE(row.name);
    const TrainingJob job = Job(row.change);
    ASSERT_OK_AND_ASSIGN(const RunForecast forecast, ForecastRun(job));
    ASSERT_TRUE(forecast.device_memory.has_value());
    EXPECT_EQ(forecast.memory.optimiser, 0);
    const testing::FakeClock clock;
    const int64_t peak = PeakOf([&] {
      const auto train = [&](auto trainer) {
        return trainer(job, {}, PosixFileSystem(), clock, {}).status();
      };
      const bool full = job.recipe.method == TrainingMethod::kFull;
      EXPECT_THAT(full ? train(TrainFull) : train(TrainLora), testing::IsOk());
    });
    const double ratio =
        static_cast<double>(forecast.device_memory->total()) / static_cast<double>(peak);
    EXPECT_GT(ratio, 0.9) << peak;
    EXPECT_LT(ratio, 1.2) << peak;
  }
}

TEST(ForecastDeviceMemory, ABaseInFewBitsLiesThereAsItIs) {
  const auto base_of = [](WeightStorage storage) {
    const TrainingJob job = Job([&](LlamaConfig&, LoraRecipe& r) { r.base_weights = storage; });
    return ForecastRun(job, {.device = "cuda"})->device_memory->base;
  };
  EXPECT_LT(base_of(WeightStorage::kInt8), base_of(WeightStorage::kFp32) * 45 / 100);
  EXPECT_LT(base_of(WeightStorage::kQ4), base_of(WeightStorage::kInt8));
}

// On CUDA: padded to buckets, a pool of graphs, and flash attention in bf16.
TEST(ForecastDeviceMemory, CountsWhatOnlyADeviceHas) {
  const TrainingJob fp32 = Job([](LlamaConfig&, LoraRecipe&) {});
  const TrainingJob bf16 =
      Job([](LlamaConfig&, LoraRecipe& r) { r.precision = TrainingPrecision::kBf16; });
  ASSERT_OK_AND_ASSIGN(const RunForecast host, ForecastRun(fp32));
  ASSERT_OK_AND_ASSIGN(const RunForecast graphs, ForecastRun(fp32, {.device = "cuda"}));
  ASSERT_OK_AND_ASSIGN(const RunForecast plain,
                       ForecastRun(fp32, {.device = "cuda", .device_graphs = false}));
  ASSERT_OK_AND_ASSIGN(const RunForecast half, ForecastRun(bf16, {.device = "cuda"}));
  EXPECT_EQ(host.device_memory->total(), plain.device_memory->total());
  EXPECT_EQ(plain.device_memory->graphs, 0);
  EXPECT_GT(graphs.device_memory->graphs, 0);
  EXPECT_GT(graphs.device_memory->activations, plain.device_memory->activations);
  EXPECT_LT(half.device_memory->activations, graphs.device_memory->activations / 2);
  EXPECT_EQ(half.device_memory->moments, graphs.device_memory->moments);
}

TEST(ForecastDeviceMemory, CopiesOfSharedKeysCost) {
  const TrainingJob job = Job([](LlamaConfig&, LoraRecipe&) {});
  const std::vector<PlannedModule> modules = PlanModules(job.base->config, job.recipe).value();
  const auto activations = [&](int64_t keys) {
    return ForecastDeviceMemory({.config = job.base->config,
                                 .recipe = job.recipe,
                                 .modules = modules,
                                 .saved = {},
                                 .largest = {.tokens = 64,
                                             .rows = 4,
                                             .longest_row = 32,
                                             .keys = keys,
                                             .predicting = 8,
                                             .targets = 8},
                                 .packed = true})
        .activations;
  };
  EXPECT_GT(activations(96), activations(0));
  EXPECT_GT(activations(960), activations(96) + 2 * 864 * 32 * 4);
}

}  // namespace
}  // namespace evolora
