#include "int8_matrix.h"

#include "ATen/ATen.h"
#include "ATen/Parallel.h"
#include "evolora/model/compact_weights.h"
#include "evolora/model/engine.h"
#include "evolora/model/packed_matrix.h"
#include "model/random_model.h"
#include "support/status_matchers.h"

namespace evolora {
namespace {

using testing::RandomIds;
using testing::RandomWeights;
using testing::SmallConfig;

TEST(RoundToInt8, StaysWithinHalfAStepOfEachBlocksScale) {
  at::Tensor weight = at::randn({5, 70});
  weight[2].zero_();
  const at::Tensor rounded = RoundToInt8(weight);
  for (int64_t row = 0; row < 5; ++row) {
    for (int64_t begin = 0; begin < 70; begin += 32) {
      const at::Tensor block = weight[row].slice(0, begin, begin + 32);
      const double step = block.abs().max().item<double>() / 127;
      const at::Tensor error = (rounded[row].slice(0, begin, begin + 32) - block).abs();
      EXPECT_LE(error.max().item<double>(), step / 2 * 1.0001);
    }
  }
  EXPECT_EQ(rounded[2].abs().max().item<float>(), 0);
}

TEST(Int8Matrix, IsThePackedMatrixOfTheRoundedWeightBitForBit) {
  const at::Tensor first = at::randn({45, 70});
  const at::Tensor second = at::randn({7, 70});
  const Int8Matrix int8({first, second});
  const PackedMatrix packed({RoundToInt8(first), RoundToInt8(second)});
  const at::Tensor x = at::randn({21, 70});
  for (const int64_t rows : {1, 2, 3, 4, 5, 7, 8, 9, 21}) {
    SCOPED_TRACE(rows);
    at::Tensor ours = at::full({rows, 52}, 3.0f);
    at::Tensor expected = ours.clone();
    int8.Apply(x.const_data_ptr<float>(), 70, rows, ours.mutable_data_ptr<float>(), 52);
    packed.Apply(x.const_data_ptr<float>(), 70, rows, expected.mutable_data_ptr<float>(), 52);
    EXPECT_TRUE(at::equal(ours, expected));
    int8.ApplyAdd(x.const_data_ptr<float>(), 70, rows, ours.mutable_data_ptr<float>(), 52);
    packed.ApplyAdd(x.const_data_ptr<float>(), 70, rows, expected.mutable_data_ptr<float>(), 52);
    EXPECT_TRUE(at::equal(ours, expected));
  }
}

TEST(Int8Matrix, AnInt8EngineRoundsNoWeightThatIsInBlocks) {
  const auto weights = std::make_shared<LlamaWeights>(
      WidenedCopy(CompactCopy(*RandomWeights(SmallConfig(), 7), WeightStorage::kQ4)));
  ASSERT_OK_AND_ASSIGN(const auto int8, Engine::Create(weights, {.weights = WeightFormat::kInt8}));
  ASSERT_OK_AND_ASSIGN(const auto fp32, Engine::Create(weights));
  const std::vector<EngineRequest> requests = {
      {.prompt = RandomIds(weights->config, 5, 1), .max_new_tokens = 20}};
  ASSERT_OK_AND_ASSIGN(const auto a, int8->Generate(requests));
  ASSERT_OK_AND_ASSIGN(const auto b, fp32->Generate(requests));
  EXPECT_EQ(a[0].ids, b[0].ids);
  EXPECT_EQ(a[0].logprobs, b[0].logprobs);
}

TEST(Int8Matrix, AnInt8EngineIsTheEngineOfTheRoundedBase) {
  const LlamaConfig config = SmallConfig();
  const auto weights = RandomWeights(config, 7);
  auto rounded = std::make_shared<LlamaWeights>(*weights);
  for (LlamaLayer& layer : rounded->layers) {
    for (at::Tensor* w :
         {&layer.q, &layer.k, &layer.v, &layer.o, &layer.gate, &layer.up, &layer.down}) {
      *w = RoundToInt8(*w);
    }
  }
  rounded->head = RoundToInt8(rounded->head);
  ASSERT_OK_AND_ASSIGN(const auto ours, Engine::Create(weights, {.weights = WeightFormat::kInt8}));
  ASSERT_OK_AND_ASSIGN(const auto expected, Engine::Create(rounded));
  std::vector<EngineRequest> requests;
  for (uint64_t i = 0; i < 5; ++i) {
    requests.push_back(
        {.prompt = RandomIds(config, 4 + static_cast<int64_t>(i) * 9, i), .max_new_tokens = 20});
  }
  ASSERT_OK_AND_ASSIGN(const auto a, ours->Generate(requests));
  ASSERT_OK_AND_ASSIGN(const auto b, expected->Generate(requests));
  for (size_t i = 0; i < requests.size(); ++i) {
    EXPECT_EQ(a[i].ids, b[i].ids);
    // Prompts of an fp32 base may be multiplied in another way: rounded otherwise, as exact.
    for (size_t t = 0; t < b[i].logprobs.size(); ++t) {
      EXPECT_NEAR(a[i].logprobs[t], b[i].logprobs[t], 2e-6) << t;
    }
  }
}

}  // namespace
}  // namespace evolora
