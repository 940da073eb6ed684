#include "evolora/model/reference_forward.h"

#include <cmath>

#include "ATen/ATen.h"
#include "evolora/core/random.h"
#include "evolora/model/rope.h"
#include "model/random_model.h"
#include "support/status_matchers.h"

namespace evolora {
namespace {

using ::testing::HasSubstr;
using testing::RandomAdapter;
using testing::RandomIds;
using testing::RandomWeights;
using testing::SmallConfig;
using testing::StatusIs;

at::Tensor Logits(const LlamaWeights& weights, const LoraTensors* lora, const TokenBatch& batch) {
  auto logits = ReferenceLogits(weights, lora, batch);
  EXPECT_TRUE(logits.ok()) << logits.status();
  return *logits;
}

TokenBatch OneRow(const std::vector<TokenId>& ids) {
  return *PadRight(std::vector<std::vector<TokenId>>{ids});
}

double Gap(const at::Tensor& a, const at::Tensor& b) { return (a - b).abs().max().item<double>(); }

TEST(ReferenceForward, PaddingNeverChangesARow) {
  LlamaConfig config = SmallConfig();
  config.sliding_window = 6;
  config.layer_uses_window = {true, false, true};
  const auto weights = RandomWeights(config, 3);
  std::vector<std::vector<TokenId>> rows;
  for (int64_t length : {5, 17, 1, 11}) {
    rows.push_back(RandomIds(config, length, 40 + static_cast<uint64_t>(length)));
  }
  ASSERT_OK_AND_ASSIGN(const TokenBatch batch, PadRight(rows));
  const at::Tensor together = Logits(*weights, nullptr, batch);
  EXPECT_TRUE(together.isfinite().all().item<bool>());
  for (size_t row = 0; row < rows.size(); ++row) {
    const at::Tensor alone = Logits(*weights, nullptr, OneRow(rows[row]));
    const auto length = static_cast<int64_t>(rows[row].size());
    EXPECT_LT(Gap(together[static_cast<int64_t>(row)].narrow(0, 0, length), alone[0]), 1e-5);
  }
}

TEST(ReferenceForward, PackedSegmentsAreSeparateSequences) {
  LlamaConfig config = SmallConfig();
  config.sliding_window = 4;
  const auto weights = RandomWeights(config, 3);
  const std::vector<TokenId> a = RandomIds(config, 6, 1);
  const std::vector<TokenId> b = RandomIds(config, 9, 2);
  std::vector<TokenId> joined = a;
  joined.insert(joined.end(), b.begin(), b.end());
  TokenBatch batch = OneRow(joined);
  batch.segments = at::cat({at::zeros(6, at::kLong), at::ones(9, at::kLong)}).unsqueeze(0);
  batch.positions = at::cat({at::arange(6, at::kLong), at::arange(9, at::kLong)}).unsqueeze(0);
  const at::Tensor packed = Logits(*weights, nullptr, batch)[0];
  EXPECT_LT(Gap(packed.narrow(0, 0, 6), Logits(*weights, nullptr, OneRow(a))[0]), 1e-5);
  EXPECT_LT(Gap(packed.narrow(0, 6, 9), Logits(*weights, nullptr, OneRow(b))[0]), 1e-5);
}

TEST(ReferenceForward, ATokenSeesOnlyWhatIsBeforeIt) {
  const LlamaConfig config = SmallConfig();
  const auto weights = RandomWeights(config, 3);
  std::vector<TokenId> ids = RandomIds(config, 12, 1);
  const at::Tensor before = Logits(*weights, nullptr, OneRow(ids))[0];
  ids[8] = (ids[8] + 1) % 37;
  const at::Tensor after = Logits(*weights, nullptr, OneRow(ids))[0];
  EXPECT_EQ(Gap(before.narrow(0, 0, 8), after.narrow(0, 0, 8)), 0);
  for (int64_t t = 8; t < 12; ++t) EXPECT_GT(Gap(before[t], after[t]), 1e-4);
}

TEST(ReferenceForward, AWindowOfWSeesItselfAndWMinusOneBefore) {
  LlamaConfig config = SmallConfig();
  config.num_layers = 1;
  config.sliding_window = 3;
  const auto weights = RandomWeights(config, 3);
  std::vector<TokenId> ids = RandomIds(config, 8, 1);
  const at::Tensor before = Logits(*weights, nullptr, OneRow(ids))[0];
  ids[2] = (ids[2] + 1) % 37;
  const at::Tensor after = Logits(*weights, nullptr, OneRow(ids))[0];
  EXPECT_GT(Gap(before[4], after[4]), 1e-4);
  EXPECT_EQ(Gap(before[5], after[5]), 0);
}

// The base with the adapter in its weights.
LlamaWeights Merge(const LlamaWeights& weights, const LoraTensors& lora) {
  LlamaWeights merged = weights;
  for (LlamaLayer& layer : merged.layers) {
    const auto index = &layer - merged.layers.data();
    const std::string prefix = "model.layers." + std::to_string(index) + ".";
    const auto merge = [&](const char* name, at::Tensor& weight) {
      const LoraTensor& module = lora.modules.at(prefix + name);
      weight = weight + at::matmul(module.b, module.a) * module.scale;
      if (!module.magnitude.defined()) return;
      const at::Tensor norms = weight.square().sum(1, /*keepdim=*/true).sqrt();
      weight = weight / norms * module.magnitude.unsqueeze(1);
    };
    merge("self_attn.q_proj", layer.q);
    merge("self_attn.k_proj", layer.k);
    merge("self_attn.v_proj", layer.v);
    merge("self_attn.o_proj", layer.o);
    merge("mlp.gate_proj", layer.gate);
    merge("mlp.up_proj", layer.up);
    merge("mlp.down_proj", layer.down);
  }
  return merged;
}

TEST(ReferenceForward, AnAdapterEqualsItsMergedWeights) {
  LlamaConfig config = SmallConfig();
  config.qkv_bias = config.output_bias = true;
  const auto weights = RandomWeights(config, 3);
  const TokenBatch batch = OneRow(RandomIds(config, 20, 4));
  for (const LoraAdapter& adapter :
       {RandomAdapter(config, 4, 9), testing::RandomDora(config, 4, 9)}) {
    ASSERT_OK_AND_ASSIGN(const LoraTensors lora, LoraTensorsFromAdapter(config, adapter));
    const LlamaWeights merged = Merge(*weights, lora);
    EXPECT_LT(Gap(Logits(*weights, &lora, batch), Logits(merged, nullptr, batch)), 1e-4);
  }
}

// Everything in float64: weights, adapter, and so the pass.
LlamaWeights ToDouble(const LlamaWeights& weights) {
  LlamaWeights result = weights;
  const auto convert = [](at::Tensor& tensor) {
    if (tensor.defined()) tensor = tensor.to(at::kDouble);
  };
  convert(result.embedding);
  convert(result.final_norm);
  convert(result.head);
  for (LlamaLayer& w : result.layers) {
    for (at::Tensor* tensor :
         {&w.input_norm, &w.post_norm, &w.q, &w.k, &w.v, &w.o, &w.q_bias, &w.k_bias, &w.v_bias,
          &w.o_bias, &w.q_norm, &w.k_norm, &w.gate, &w.up, &w.down}) {
      convert(*tensor);
    }
  }
  return result;
}

TEST(ReferenceForward, GradientsEqualFiniteDifferencesInDouble) {
  LlamaConfig config = SmallConfig();
  config.num_layers = 2;
  config.qk_norm = true;
  config.qkv_bias = true;
  config.sliding_window = 5;
  const LlamaWeights weights = ToDouble(*RandomWeights(config, 3));
  ASSERT_OK_AND_ASSIGN(LoraTensors lora,
                       LoraTensorsFromAdapter(config, RandomAdapter(config, 2, 9)));
  for (auto& [path, module] : lora.modules) {
    module.a = module.a.to(at::kDouble).requires_grad_();
    module.b = module.b.to(at::kDouble).requires_grad_();
  }
  const TokenBatch batch = OneRow(RandomIds(config, 9, 4));
  const auto loss = [&] { return Logits(weights, &lora, batch).sin().sum(); };
  loss().backward();
  Random random(1);
  for (auto& [path, module] : lora.modules) {
    for (at::Tensor* tensor : {&module.a, &module.b}) {
      const auto index =
          static_cast<int64_t>(random.NextBelow(static_cast<uint64_t>(tensor->numel())));
      double* value = tensor->mutable_data_ptr<double>() + index;
      const double original = *value;
      *value = original + 1e-6;
      const double high = loss().item<double>();
      *value = original - 1e-6;
      const double low = loss().item<double>();
      *value = original;
      EXPECT_NEAR(tensor->grad().flatten()[index].item<double>(), (high - low) / 2e-6, 1e-5)
          << path;
    }
  }
  EXPECT_FALSE(weights.embedding.requires_grad());
}

TEST(ReferenceForward, RefusesBadBatchesAndAdapters) {
  const LlamaConfig config = SmallConfig();
  const auto weights = RandomWeights(config, 3);
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  EXPECT_THAT(PadRight({}), StatusIs(kInvalid, HasSubstr("no rows")));
  EXPECT_THAT(PadRight(std::vector<std::vector<TokenId>>{{1}, {}}),
              StatusIs(kInvalid, HasSubstr("row 1: T=0")));
  TokenBatch batch = OneRow({1, 37});
  EXPECT_THAT(ReferenceHidden(*weights, nullptr, batch), StatusIs(kInvalid, HasSubstr("id 37")));
  batch = OneRow({1, 2});
  batch.segments = at::zeros({1, 3}, at::kLong);
  EXPECT_THAT(ReferenceHidden(*weights, nullptr, batch), StatusIs(kInvalid, HasSubstr("segments")));
  batch = OneRow({1, 2});
  batch.ids = batch.ids.to(at::kInt);
  EXPECT_THAT(ReferenceHidden(*weights, nullptr, batch), StatusIs(kInvalid, HasSubstr("int64")));
  LoraTensors lora;
  lora.modules["model.layers.0.mlp.up_proj"] = {at::zeros({2, 24}), at::zeros({43, 2}), 1};
  EXPECT_THAT(ReferenceHidden(*weights, &lora, OneRow({1})),
              StatusIs(kInvalid, HasSubstr("model.layers.0.mlp.up_proj")));
}

TEST(LoraTensors, SurviveTheWayThereAndBack) {
  const LlamaConfig config = SmallConfig();
  const LoraAdapter adapter = testing::RandomDora(config, 3, 5, 2);
  ASSERT_OK_AND_ASSIGN(const LoraTensors lora, LoraTensorsFromAdapter(config, adapter));
  ASSERT_OK_AND_ASSIGN(const LoraAdapter back, LoraTensorsToAdapter(lora, "base", "rev"));
  EXPECT_EQ(AdapterDigest(back), AdapterDigest(adapter));
  EXPECT_EQ(back.base_name, "base");

  LoraTensors broken = lora;
  broken.modules.begin()->second.b = at::zeros({4, 9});
  EXPECT_THAT(
      LoraTensorsToAdapter(broken, "", ""),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(broken.modules.begin()->first)));
  broken = lora;
  broken.modules.begin()->second.b.fill_(std::nan(""));
  EXPECT_THAT(
      LoraTensorsToAdapter(broken, "", ""),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(broken.modules.begin()->first)));
}

TEST(Rope, FreqFactorsDivideTheFrequencies) {
  LlamaConfig config = SmallConfig();
  const at::Tensor plain = RopeInverseFrequencies(config);
  EXPECT_EQ(plain[0].item<float>(), 1.0f);
  EXPECT_NEAR(plain[1].item<float>(), std::pow(10000.0, -0.2), 1e-7);
  config.rope_freq_factors = {1, 2, 4, 8, 16};
  const at::Tensor divided = RopeInverseFrequencies(config);
  for (int64_t i = 0; i < 5; ++i) {
    EXPECT_EQ(divided[i].item<float>() * static_cast<float>(1 << i), plain[i].item<float>());
  }
}

}  // namespace
}  // namespace evolora
