// GGUF and llama2.c files as bases.

#include <cstring>
#include <map>

#include "ATen/ATen.h"
#include "evolora/adapters/gguf.h"
#include "evolora/model/base_model.h"
#include "evolora/model/compact_weights.h"
#include "model/random_model.h"
#include "support/status_matchers.h"
#include "support/temp_dir.h"

namespace evolora {
namespace {

using ::testing::HasSubstr;
using testing::RandomWeights;
using testing::SmallConfig;
using testing::SourcePath;
using testing::StatusIs;
using testing::TempDir;

// Rotate-half rows to llama.cpp's adjacent pairs.
at::Tensor ToAdjacentPairs(const at::Tensor& tensor, int64_t heads) {
  const int64_t half = tensor.size(0) / heads / 2;
  const int64_t rest = tensor.numel() / tensor.size(0);
  return tensor.reshape({heads, 2, half, rest})
      .transpose(1, 2)
      .reshape(tensor.sizes())
      .contiguous();
}

// Bytes of any blocks of a type, with finite scales of either sign.
std::vector<uint8_t> RandomBlocks(GgmlType type, int64_t count) {
  const GgmlBlock block = *GgmlBlockOf(type);
  const int64_t size = count / block.elements * block.bytes;
  const at::Tensor bytes = at::randint(0, 256, {size}, at::kByte);
  std::vector<uint8_t> data(bytes.const_data_ptr<uint8_t>(),
                            bytes.const_data_ptr<uint8_t>() + size);
  const auto clear = [&](int64_t at, uint8_t bits) { data[static_cast<size_t>(at)] &= ~bits; };
  for (int64_t b = 0; b < size; b += block.bytes) {
    // The exponent's highest bit of a number's upper byte, or of two.
    clear(type == GgmlType::kQ6_K ? b + 209 : b + 1, 0x40);
    const bool has_low = type == GgmlType::kQ4_1 || type == GgmlType::kQ5_1 ||
                         type == GgmlType::kQ4_K || type == GgmlType::kQ5_K;
    if (has_low) clear(b + 3, 0x40);
  }
  return data;
}

// The GGUF file llama.cpp's converter would write for `weights`, F32.
class GgufModel {
 public:
  GgufModel(const LlamaWeights& weights, const std::string& architecture)
      : architecture_(architecture) {
    const LlamaConfig& c = weights.config;
    values.emplace_back("general.architecture", GgufValue::String(architecture));
    Set("block_count", c.num_layers);
    Set("context_length", c.max_positions);
    Set("embedding_length", c.hidden_size);
    Set("feed_forward_length", c.intermediate_size);
    Set("attention.head_count", c.num_heads);
    Set("attention.head_count_kv", c.num_kv_heads);
    Set("attention.key_length", c.head_dim);
    Set("attention.value_length", c.head_dim);
    SetFloat("attention.layer_norm_rms_epsilon", c.rms_norm_eps);
    SetFloat("rope.freq_base", c.rope_theta);
    for (const NamedTensor& named : NamedTensors(weights)) AddHf(named, c);
  }
  void Set(const std::string& key, int64_t value) {
    values.emplace_back(architecture_ + "." + key, GgufValue::U32(static_cast<uint32_t>(value)));
  }
  void SetFloat(const std::string& key, double value) {
    values.emplace_back(architecture_ + "." + key, GgufValue::F32(static_cast<float>(value)));
  }
  void Add(const std::string& name, const at::Tensor& tensor) {
    tensors_.emplace_back(name, tensor.contiguous());
  }
  // Gives the matrices whose names contain `part` any values of a type in place of their own.
  void Fill(const std::string& part, GgmlType type) {
    for (const auto& [name, tensor] : tensors_) {
      if (tensor.dim() != 2 || name.find(part) == std::string::npos) continue;
      blocks_[name] = {type, RandomBlocks(type, tensor.numel())};
    }
  }
  void Keep(const std::string& name) { blocks_.erase(name); }
  std::vector<uint8_t>& blocks(const std::string& name) { return blocks_.at(name).second; }

  absl::StatusOr<BaseModel> Load(const LoadOptions& options = {}) const {
    std::vector<GgufTensor> list;
    for (const auto& [name, tensor] : tensors_) {
      list.push_back({.name = name,
                      .type = GgmlType::kF32,
                      .shape = tensor.sizes().vec(),
                      .bytes = {static_cast<const uint8_t*>(tensor.const_data_ptr()),
                                static_cast<size_t>(tensor.nbytes())}});
      const auto found = blocks_.find(name);
      if (found == blocks_.end()) continue;
      list.back().type = found->second.first;
      list.back().bytes = found->second.second;
    }
    const auto bytes = SerializeGguf(values, list);
    EXPECT_TRUE(bytes.ok()) << bytes.status();
    TempDir dir;
    EXPECT_TRUE(PosixFileSystem().WriteFileAtomic(dir.Join("m.gguf"), *bytes).ok());
    return LoadBase(PosixFileSystem(), dir.Join("m.gguf"), options);
  }

  std::vector<std::pair<std::string, GgufValue>> values;

 private:
  void AddHf(const NamedTensor& named, const LlamaConfig& c) {
    static const std::map<std::string, std::string> kParts = {
        {"input_layernorm", "attn_norm"},    {"post_attention_layernorm", "ffn_norm"},
        {"self_attn.q_proj", "attn_q"},      {"self_attn.k_proj", "attn_k"},
        {"self_attn.v_proj", "attn_v"},      {"self_attn.o_proj", "attn_output"},
        {"self_attn.q_norm", "attn_q_norm"}, {"self_attn.k_norm", "attn_k_norm"},
        {"mlp.gate_proj", "ffn_gate"},       {"mlp.up_proj", "ffn_up"},
        {"mlp.down_proj", "ffn_down"}};
    if (named.name == "model.embed_tokens.weight") return Add("token_embd.weight", named.tensor);
    if (named.name == "model.norm.weight") return Add("output_norm.weight", named.tensor);
    if (named.name == "lm_head.weight") return Add("output.weight", named.tensor);
    const size_t layer_at = std::string("model.layers.").size();
    const size_t dot = named.name.find('.', layer_at);
    const size_t kind = named.name.rfind('.');
    const std::string part = named.name.substr(dot + 1, kind - dot - 1);
    at::Tensor tensor = named.tensor;
    if (architecture_ == "llama" && part == "self_attn.q_proj") {
      tensor = ToAdjacentPairs(tensor, c.num_heads);
    }
    if (architecture_ == "llama" && part == "self_attn.k_proj") {
      tensor = ToAdjacentPairs(tensor, c.num_kv_heads);
    }
    Add("blk." + named.name.substr(layer_at, dot - layer_at) + "." + kParts.at(part) +
            named.name.substr(kind),
        tensor);
  }

  std::string architecture_;
  std::vector<std::pair<std::string, at::Tensor>> tensors_;
  std::map<std::string, std::pair<GgmlType, std::vector<uint8_t>>> blocks_;  // by name
};

TEST(LoadBase, AGgufHoldsTheSameWeightsAsTheFolder) {
  for (const char* architecture : {"llama", "qwen2", "qwen3"}) {
    for (bool tied : {false, true}) {
      SCOPED_TRACE(architecture);
      LlamaConfig config = SmallConfig();
      config.architecture = architecture;
      config.tied_head = tied;
      config.qkv_bias = architecture != std::string("qwen3");
      config.qk_norm = architecture == std::string("qwen3");
      const auto weights = RandomWeights(config, 3);
      ASSERT_OK_AND_ASSIGN(const BaseModel base, GgufModel(*weights, architecture).Load());
      EXPECT_EQ(base.source, BaseSource::kGguf);
      ASSERT_OK_AND_ASSIGN(const std::string expected, WeightsFingerprint(*weights));
      EXPECT_EQ(base.weights_fingerprint, expected);
      EXPECT_EQ(base.shape_fingerprint, ShapeFingerprint(config));
    }
  }
}

// Every axis is whole blocks.
LlamaConfig BlockConfig(bool tied) {
  LlamaConfig config = SmallConfig();
  config.vocab_size = 96;
  config.hidden_size = 64;
  config.intermediate_size = 96;
  config.head_dim = 16;
  config.num_heads = 4;
  config.num_kv_heads = 2;
  config.tied_head = tied;
  return config;
}

// And of 256 values.
LlamaConfig LargeBlockConfig() {
  LlamaConfig config = BlockConfig(/*tied=*/false);
  config.hidden_size = 256;
  config.intermediate_size = 512;
  config.head_dim = 64;
  return config;
}

constexpr LoadOptions kExactly = {.fingerprint_weights = false, .storage = WeightStorage::kExact};

void ExpectSameNumbers(const LlamaWeights& exact, const LlamaWeights& plain) {
  EXPECT_EQ(WeightsFingerprint(exact).value(), WeightsFingerprint(plain).value());
  const LlamaWeights wide = exact.compact != nullptr ? WidenedCopy(exact) : exact;
  const std::vector<NamedTensor> a = NamedTensors(wide), b = NamedTensors(plain);
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) EXPECT_TRUE(at::equal(a[i].tensor, b[i].tensor)) << i;
}

TEST(LoadBase, BlocksOfTheFileHoldItsNumbers) {
  for (const bool tied : {false, true}) {
    const auto weights = RandomWeights(BlockConfig(tied), 3);
    for (const GgmlType type :
         {GgmlType::kQ4_0, GgmlType::kQ4_1, GgmlType::kQ8_0, GgmlType::kBF16}) {
      SCOPED_TRACE(GgmlTypeName(type));
      GgufModel model(*weights, "llama");
      model.Fill("", type);
      model.Fill("token_embd", GgmlType::kQ8_0);  // each matrix has a storage of its own
      model.Fill("blk.1.ffn_down", GgmlType::kBF16);
      ASSERT_OK_AND_ASSIGN(const BaseModel plain, model.Load());
      ASSERT_OK_AND_ASSIGN(const BaseModel exact, model.Load(kExactly));
      ASSERT_NE(exact.weights->compact, nullptr);
      EXPECT_EQ(exact.weights->compact->storage, WeightStorage::kExact);
      EXPECT_EQ(exact.weights->compact->layers[1].down.form(), BlockForm::kBf16);
      EXPECT_LT(CompactBytes(plain.config(), *exact.weights->compact),
                int64_t{type == GgmlType::kBF16 ? 1 : 2} * 64 * 64 * 4 * 20);
      ExpectSameNumbers(*exact.weights, *plain.weights);
    }
  }
}

// Each type by itself, and as files of Q4_K_M have them: one matrix of q and k in Q4_K, v in Q6_K.
TEST(LoadBase, BlocksOfLargeBlocksHoldTheirNumbers) {
  const auto weights = RandomWeights(LargeBlockConfig(), 3);
  for (const GgmlType type : {GgmlType::kQ4_K, GgmlType::kQ5_K, GgmlType::kQ6_K, GgmlType::kQ5_0,
                              GgmlType::kQ5_1, GgmlType::kF16, GgmlType::kQ8_0}) {
    SCOPED_TRACE(GgmlTypeName(type));
    GgufModel model(*weights, "llama");
    model.Fill("", type);
    if (type == GgmlType::kQ4_K) {
      model.Fill("blk.1.attn_v", GgmlType::kQ6_K);
      model.Fill("blk.1.ffn_down", GgmlType::kQ6_K);
      model.Fill("output", GgmlType::kQ6_K);
      model.Fill("blk.2.attn_k", GgmlType::kQ4_0);
      model.Fill("blk.2.ffn_up", GgmlType::kQ8_0);
    }
    ASSERT_OK_AND_ASSIGN(const BaseModel plain, model.Load());
    ASSERT_OK_AND_ASSIGN(const BaseModel exact, model.Load(kExactly));
    ASSERT_NE(exact.weights->compact, nullptr);
    ExpectSameNumbers(*exact.weights, *plain.weights);
    if (type != GgmlType::kQ4_K) continue;
    const std::vector<CompactLayer>& layers = exact.weights->compact->layers;
    EXPECT_EQ(layers[0].qkv.form(), BlockForm::kQ4Float);
    EXPECT_EQ(layers[1].qkv.form(), BlockForm::kInt8Low);
    EXPECT_EQ(layers[1].gate_up.form(), BlockForm::kQ4Float);
    EXPECT_EQ(layers[2].qkv.form(), BlockForm::kQ4Float);
    EXPECT_EQ(layers[2].gate_up.form(), BlockForm::kInt8Low);
  }
}

TEST(LoadBase, ABaseThatHasNoBlocksForAllMatricesStaysAsItIs) {
  const auto weights = RandomWeights(BlockConfig(true), 3);
  const auto expect_wide = [](const GgufModel& model) {
    ASSERT_OK_AND_ASSIGN(const BaseModel plain, model.Load());
    ASSERT_OK_AND_ASSIGN(const BaseModel exact, model.Load(kExactly));
    EXPECT_EQ(exact.weights->compact, nullptr);
    ExpectSameNumbers(*exact.weights, *plain.weights);
  };
  GgufModel one_in_fp32(*weights, "llama");
  one_in_fp32.Fill("", GgmlType::kQ4_1);
  one_in_fp32.Keep("blk.2.attn_output.weight");
  expect_wide(one_in_fp32);
  GgufModel unlike_parts(*weights, "llama");
  unlike_parts.Fill("", GgmlType::kQ4_1);
  unlike_parts.Fill("attn_k", GgmlType::kF16);
  expect_wide(unlike_parts);
  GgufModel large(*weights, "llama");  // -8 times a scale of 16384 is no fp16 number
  large.Fill("", GgmlType::kQ4_0);
  large.blocks("blk.0.ffn_up.weight")[0] = 0;
  large.blocks("blk.0.ffn_up.weight")[1] = 0x74;
  expect_wide(large);
}

TEST(LoadBase, AScaleThatIsNotFiniteIsNamedByItsValue) {
  const auto weights = RandomWeights(BlockConfig(true), 3);
  for (const GgmlType type :
       {GgmlType::kQ4_0, GgmlType::kQ4_1, GgmlType::kQ8_0, GgmlType::kF16, GgmlType::kBF16}) {
    GgufModel model(*weights, "llama");
    model.Fill("", type);
    model.blocks("blk.1.ffn_gate.weight")[0] = 0xc1;
    model.blocks("blk.1.ffn_gate.weight")[1] = 0x7f;
    EXPECT_THAT(model.Load(kExactly).status(),
                StatusIs(absl::StatusCode::kInvalidArgument,
                         HasSubstr("model.layers.1.mlp.gate_proj.weight (blk.1.ffn_gate.weight): "
                                   "value 0 is")));
  }
}

TEST(LoadBase, RopeFreqsTurnAsTheScalingTheyCameFrom) {
  LlamaConfig config = SmallConfig();
  const auto weights = RandomWeights(config, 3);
  GgufModel model(*weights, "llama");
  model.Add("rope_freqs.weight", at::full({5}, 4.0));
  ASSERT_OK_AND_ASSIGN(const BaseModel base, model.Load());
  LlamaWeights linear = *weights;
  linear.config.rope_scaling = RopeScaling::kLinear;
  linear.config.rope_factor = 4;
  ASSERT_OK_AND_ASSIGN(const std::string expected, WeightsFingerprint(linear));
  EXPECT_EQ(base.weights_fingerprint, expected);
}

TEST(LoadBase, RefusesGgufKeysAndTensorsItDoesNotKnow) {
  const auto weights = RandomWeights(SmallConfig(), 3);
  constexpr auto kUnimplemented = absl::StatusCode::kUnimplemented;
  {
    GgufModel model(*weights, "llama");
    model.Set("attention.causal", 1);
    EXPECT_THAT(model.Load(), StatusIs(kUnimplemented, HasSubstr("llama.attention.causal")));
  }
  {
    GgufModel model(*weights, "llama");
    model.Set("expert_count", 8);
    EXPECT_THAT(model.Load(), StatusIs(kUnimplemented, HasSubstr("expert_count")));
  }
  {
    GgufModel model(*weights, "llama");
    model.values.emplace_back("llama.rope.scaling.type", GgufValue::String("yarn"));
    EXPECT_THAT(model.Load(), StatusIs(kUnimplemented, HasSubstr("yarn")));
  }
  {
    GgufModel model(*weights, "gemma");
    EXPECT_THAT(model.Load(), StatusIs(kUnimplemented, HasSubstr("architecture = gemma")));
  }
  {
    GgufModel model(*weights, "llama");
    model.Add("blk.0.ffn_gate_exps.weight", at::zeros({2, 2}));
    EXPECT_THAT(model.Load(), StatusIs(absl::StatusCode::kInvalidArgument,
                                       HasSubstr("blk.0.ffn_gate_exps.weight")));
  }
  {
    GgufModel model(*weights, "llama");
    model.Set("rope.dimension_count", 8);
    EXPECT_THAT(model.Load(),
                StatusIs(kUnimplemented, HasSubstr("rope.dimension_count = 8 of 10")));
  }
}

void AppendFloats(const at::Tensor& tensor, std::string& bytes) {
  const at::Tensor flat = tensor.contiguous();
  bytes.append(static_cast<const char*>(flat.const_data_ptr()), flat.nbytes());
}

void AppendInts(const std::vector<int32_t>& values, std::string& bytes) {
  bytes.append(reinterpret_cast<const char*>(values.data()), values.size() * 4);
}

// A version 1 file of the weights of a legacy one.
std::string ToVersion1(const LlamaWeights& w) {
  const LlamaConfig& c = w.config;
  std::string bytes;
  AppendInts({0x616b3432, 1, static_cast<int32_t>(c.hidden_size),
              static_cast<int32_t>(c.intermediate_size), static_cast<int32_t>(c.num_layers),
              static_cast<int32_t>(c.num_heads), static_cast<int32_t>(c.num_kv_heads),
              static_cast<int32_t>(c.vocab_size), static_cast<int32_t>(c.max_positions)},
             bytes);
  bytes.push_back(c.tied_head ? 1 : 0);
  bytes.resize(256, '\0');
  const auto each = [&](at::Tensor LlamaLayer::*part, int64_t heads) {
    for (const LlamaLayer& layer : w.layers) {
      AppendFloats(heads > 0 ? ToAdjacentPairs(layer.*part, heads) : layer.*part, bytes);
    }
  };
  each(&LlamaLayer::input_norm, 0);
  each(&LlamaLayer::post_norm, 0);
  AppendFloats(w.final_norm, bytes);
  AppendFloats(w.embedding, bytes);
  each(&LlamaLayer::q, c.num_heads);
  each(&LlamaLayer::k, c.num_kv_heads);
  each(&LlamaLayer::v, 0);
  each(&LlamaLayer::o, 0);
  each(&LlamaLayer::gate, 0);
  each(&LlamaLayer::down, 0);
  each(&LlamaLayer::up, 0);
  if (!c.tied_head) AppendFloats(w.head, bytes);
  return bytes;
}

TEST(LoadBase, Llama2cVersionsHoldTheSameWeights) {
  const std::string path = SourcePath("tests/fixtures/stories260K/stories260K.bin");
  ASSERT_OK_AND_ASSIGN(const BaseModel legacy, LoadBase(PosixFileSystem(), path));
  EXPECT_EQ(legacy.source, BaseSource::kLlama2c);
  EXPECT_EQ(legacy.tokenizer, nullptr);
  EXPECT_EQ(CountParameters(legacy.config()), 260032);
  TempDir dir;
  std::string bytes = ToVersion1(*legacy.weights);
  ASSERT_TRUE(PosixFileSystem().WriteFileAtomic(dir.Join("v1.bin"), bytes).ok());
  ASSERT_OK_AND_ASSIGN(const BaseModel version1, LoadBase(PosixFileSystem(), dir.Join("v1.bin")));
  EXPECT_EQ(version1.weights_fingerprint, legacy.weights_fingerprint);

  bytes.pop_back();
  ASSERT_TRUE(PosixFileSystem().WriteFileAtomic(dir.Join("v1.bin"), bytes).ok());
  EXPECT_THAT(LoadBase(PosixFileSystem(), dir.Join("v1.bin")),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("its header asks for")));
  bytes[4] = 2;
  ASSERT_TRUE(PosixFileSystem().WriteFileAtomic(dir.Join("v1.bin"), bytes).ok());
  EXPECT_THAT(LoadBase(PosixFileSystem(), dir.Join("v1.bin")),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("version 2")));
}

}  // namespace
}  // namespace evolora
