#include "exact_matrix.h"

#include <cmath>
#include <vector>

#include "ATen/ATen.h"
#include "evolora/model/engine.h"
#include "evolora/model/packed_matrix.h"
#include "gtest/gtest.h"
#include "model/kernel_tables.h"
#include "model/random_model.h"
#include "support/status_matchers.h"

namespace evolora {
namespace {

using testing::RandomIds;
using testing::RandomWeights;
using testing::SmallConfig;

// As GGUF's types give them: fp16 scales, 4 or 8 bits.
enum class Type { kQ4_0, kQ4_1, kQ8_0 };

at::Tensor Half(const at::Tensor& x) { return x.to(at::kHalf).to(at::kFloat); }

at::Tensor InBlocks(const at::Tensor& weight, Type type) {
  at::Tensor out = weight.clone();
  for (int64_t begin = 0; begin < weight.size(1); begin += 32) {
    at::Tensor block = out.slice(1, begin, begin + 32);
    const at::Tensor low = block.amin(1, true), high = block.amax(1, true);
    const at::Tensor most = at::maximum(high, -low);
    at::Tensor scale, least;
    switch (type) {
      case Type::kQ4_0:
        scale = Half(most / -8);
        least = -8 * scale;
        break;
      case Type::kQ4_1:
        scale = Half((high - low) / 15);
        least = Half(low);
        break;
      case Type::kQ8_0:
        scale = Half(most / 127);
        least = -127 * scale;
        break;
    }
    const int64_t top = type == Type::kQ8_0 ? 254 : 15;
    const at::Tensor value = ((block - least) / scale).round().clamp(0, top).nan_to_num(0);
    // Products are exact in fp64 and in fp32, so the sum is rounded once either way.
    block.copy_(least.to(at::kDouble) + scale.to(at::kDouble) * value);
  }
  return out;
}

at::Tensor Apply(const auto& matrix, const at::Tensor& x, int64_t out, bool add) {
  at::Tensor y = at::full({x.size(0), out}, 3.0f);
  const int64_t in = x.size(1);
  const auto run = [&](auto method) {
    (matrix.*method)(x.const_data_ptr<float>(), in, x.size(0), y.mutable_data_ptr<float>(), out);
  };
  using Matrix = std::decay_t<decltype(matrix)>;
  run(add ? &Matrix::ApplyAdd : &Matrix::Apply);
  return y;
}

// Columns that fill no panel, inputs that fill no block, a row of zeros and one of equal numbers.
TEST(ExactMatrix, IsThePackedMatrixBitForBit) {
  at::manual_seed(3);
  for (const Type type : {Type::kQ4_0, Type::kQ4_1, Type::kQ8_0}) {
    SCOPED_TRACE(static_cast<int>(type));
    at::Tensor first = at::randn({45, 70});
    first[2].zero_();
    first[3].fill_(0.5f);
    const std::vector<at::Tensor> parts = {InBlocks(first, type),
                                           InBlocks(at::randn({7, 70}) * 0.01f, type)};
    const std::optional<ExactMatrix> exact = ExactMatrix::Of(parts);
    ASSERT_TRUE(exact.has_value());
    EXPECT_LT(exact->bytes(), 64 * 70 * (type == Type::kQ8_0 ? 1.3 : 0.9));
    const PackedMatrix packed(parts);
    for (const int64_t rows : {1, 8, 21}) {
      const at::Tensor x = at::randn({rows, 70});
      for (const bool add : {false, true}) {
        EXPECT_TRUE(at::equal(Apply(*exact, x, 52, add), Apply(packed, x, 52, add))) << rows;
      }
    }
  }
}

TEST(ExactMatrix, ToManyGivesWhatAPackedMatrixGives) {
  const at::Tensor weight = InBlocks(at::randn({160, 192}), Type::kQ4_1), x = at::randn({40, 192});
  const std::optional<ExactMatrix> exact = ExactMatrix::Of({weight});
  ASSERT_TRUE(exact.has_value());
  at::Tensor y = at::zeros({40, 160}), expected = at::zeros({40, 160});
  exact->ApplyToMany(x.const_data_ptr<float>(), 192, 40, y.mutable_data_ptr<float>(), 160,
                     GemmStore::kSet);
  PackedMatrix({weight}).ApplyToMany(x.const_data_ptr<float>(), 192, 40,
                                     expected.mutable_data_ptr<float>(), 160, GemmStore::kSet);
  EXPECT_TRUE(at::equal(y, expected));
}

TEST(ExactMatrix, ANumberThatIsInNoBlockIsNotRounded) {
  at::Tensor weight = InBlocks(at::randn({40, 64}), Type::kQ4_1);
  EXPECT_TRUE(ExactMatrix::Of({weight}).has_value());
  weight[39][63] += 1e-3f;
  EXPECT_FALSE(ExactMatrix::Of({weight}).has_value());
  EXPECT_FALSE(ExactMatrix::Of({at::randn({40, 64})}).has_value());
}

TEST(ExactMatrix, KernelsGiveTheValuesOfPanels) {
  const int64_t depth = 301;
  std::vector<uint8_t> values(static_cast<size_t>(depth * 16));
  for (size_t i = 0; i < values.size(); ++i) values[i] = static_cast<uint8_t>(i * 37);
  std::vector<float> scales, lows;
  for (int i = 0; i < 320; ++i) {
    scales.push_back(std::ldexp(static_cast<float>(i % 64 + 3), -9));
    lows.push_back(std::ldexp(static_cast<float>(40 - i % 64), -7));
  }
  std::vector<int64_t> counts = {64, 67, 130};
  for (int64_t count = 1; count <= 25; ++count) counts.push_back(count);
  const at::Tensor x = at::randn({130, depth});
  testing::ForEachTable([&](const KernelTable& table) {
    std::vector<float> out(static_cast<size_t>(depth * 32));
    table.widen_q4({values.data(), scales.data(), lows.data()}, depth, out.data());
    for (int64_t k = 0; k < depth; ++k) {
      for (int64_t j = 0; j < 32; ++j) {
        const uint8_t both = values[static_cast<size_t>(k * 16 + j % 16)];
        const auto place = static_cast<size_t>(k / 32 * 32 + j);
        EXPECT_EQ(out[static_cast<size_t>(k * 32 + j)],
                  lows[place] + scales[place] * static_cast<float>(j < 16 ? both & 15 : both >> 4));
      }
    }
    // Products over the panel as it is have the bits of products over the widened one.
    for (const int64_t count : counts) {
      for (const GemmStore store : {GemmStore::kSet, GemmStore::kAdd}) {
        at::Tensor fused = at::full({count, 29}, 2.0f), expected = fused.clone();
        const GemmTerm term = {
            .x = x.const_data_ptr<float>(), .ldx = depth, .panel = out.data(), .depth = depth};
        GemmArgs args = {.terms = &term,
                         .rows = count,
                         .y = fused.mutable_data_ptr<float>(),
                         .ldy = 29,
                         .columns = 29,
                         .store = store};
        table.gemm_q4(args, {values.data(), scales.data(), lows.data()});
        args.y = expected.mutable_data_ptr<float>();
        table.gemm(args);
        EXPECT_TRUE(at::equal(fused, expected)) << count;
      }
    }
  });
}

// A base in blocks gives the engine the outputs of the same numbers in fp32.
TEST(ExactMatrix, AnEngineOfABaseInBlocksFollowsTheReference) {
  LlamaConfig config = SmallConfig();
  auto weights = std::make_shared<LlamaWeights>(*RandomWeights(config, 7));
  for (LlamaLayer& layer : weights->layers) {
    for (at::Tensor* w :
         {&layer.q, &layer.k, &layer.v, &layer.o, &layer.gate, &layer.up, &layer.down}) {
      *w = InBlocks(*w, Type::kQ4_1);
    }
  }
  auto moved = std::make_shared<LlamaWeights>(*weights);  // one number of each matrix off its block
  for (LlamaLayer& layer : moved->layers) {
    for (at::Tensor* w :
         {&layer.q, &layer.k, &layer.v, &layer.o, &layer.gate, &layer.up, &layer.down}) {
      *w = w->clone();
      (*w)[0][0] += 1e-6f;
    }
  }
  ASSERT_OK_AND_ASSIGN(const auto in_blocks, Engine::Create(weights));
  ASSERT_OK_AND_ASSIGN(const auto in_fp32, Engine::Create(moved));
  const std::vector<EngineRequest> requests = {
      {.prompt = RandomIds(config, 9, 1), .max_new_tokens = 12},
      {.prompt = RandomIds(config, 20, 2), .max_new_tokens = 12}};
  ASSERT_OK_AND_ASSIGN(const auto a, in_blocks->Generate(requests));
  ASSERT_OK_AND_ASSIGN(const auto b, in_fp32->Generate(requests));
  for (size_t i = 0; i < requests.size(); ++i) {
    EXPECT_EQ(a[i].ids, b[i].ids);
    for (size_t t = 0; t < b[i].logprobs.size(); ++t) {
      EXPECT_NEAR(a[i].logprobs[t], b[i].logprobs[t], 1e-4);
    }
  }
}

}  // namespace
}  // namespace evolora
