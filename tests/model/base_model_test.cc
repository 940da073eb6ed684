#include "evolora/model/base_model.h"

#include <cmath>
#include <cstring>
#include <map>

#include "ATen/ATen.h"
#include "evolora/adapters/dequantize.h"
#include "evolora/adapters/safetensors.h"
#include "evolora/core/json.h"
#include "evolora/model/compact_weights.h"
#include "evolora/model/engine.h"
#include "evolora/model/reference_forward.h"
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

std::string GoldenPath(const std::string& name) { return SourcePath("tests/golden/model/" + name); }

// expected.safetensors: ids and transformers' logits.
struct Expected {
  std::vector<TokenId> ids;
  at::Tensor logits;  // [T, V]
};

Expected ReadExpected(const std::string& folder) {
  const auto file =
      SafetensorsFile::Open(PosixFileSystem(), GoldenPath(folder + "/expected.safetensors"));
  EXPECT_TRUE(file.ok()) << file.status();
  Expected expected;
  const TensorView& ids = *file->Find("ids");
  expected.ids.resize(static_cast<size_t>(ids.shape[0]));
  std::memcpy(expected.ids.data(), ids.bytes.data(), ids.bytes.size());
  const TensorView& logits = *file->Find("logits");
  expected.logits = at::empty(logits.shape, at::kFloat);
  EXPECT_TRUE(DequantizeToFloat(logits.dtype, logits.bytes, expected.logits.numel(),
                                expected.logits.mutable_data_ptr<float>())
                  .ok());
  return expected;
}

double ReferenceGap(const LlamaWeights& weights, const LoraTensors* lora,
                    const Expected& expected) {
  const auto batch = PadRight(std::vector<std::vector<TokenId>>{expected.ids});
  const auto logits = ReferenceLogits(weights, lora, *batch);
  EXPECT_TRUE(logits.ok()) << logits.status();
  return ((*logits)[0] - expected.logits).abs().max().item<double>();
}

// Gap of every prefix's last logits.
double EngineGap(Engine& engine, const std::string& adapter, const Expected& expected) {
  std::vector<ScoreRequest> requests;
  for (size_t n = 1; n <= expected.ids.size(); ++n) {
    requests.push_back(
        {{expected.ids.begin(), expected.ids.begin() + static_cast<int64_t>(n)}, adapter, true});
  }
  const auto scored = engine.Score(requests);
  EXPECT_TRUE(scored.ok()) << scored.status();
  double gap = 0;
  for (size_t n = 0; n < requests.size(); ++n) {
    const std::vector<float>& logits = (*scored)[n].last_logits;
    const at::Tensor row = expected.logits[static_cast<int64_t>(n)].contiguous();
    for (size_t i = 0; i < logits.size(); ++i) {
      gap =
          std::max(gap, std::abs(static_cast<double>(logits[i]) - row.const_data_ptr<float>()[i]));
    }
  }
  return gap;
}

TEST(LoadBase, EveryArchitectureEqualsTransformers) {
  for (const char* name : {"llama", "llama_tied_linear", "llama3", "mistral_window", "qwen2",
                           "qwen2_layer_windows", "qwen3"}) {
    SCOPED_TRACE(name);
    ASSERT_OK_AND_ASSIGN(const BaseModel base, LoadBase(PosixFileSystem(), GoldenPath(name)));
    const Expected expected = ReadExpected(name);
    EXPECT_LT(ReferenceGap(*base.weights, nullptr, expected), 1e-4);
    ASSERT_OK_AND_ASSIGN(const auto engine, Engine::Create(base.weights));
    EXPECT_LT(EngineGap(*engine, "", expected), 1e-4);
    EXPECT_EQ(base.source, BaseSource::kHuggingFace);
    EXPECT_EQ(base.tokenizer, nullptr);
    EXPECT_FALSE(base.chat_format.ok());
  }
}

TEST(LoadBase, APeftAdapterEqualsPeft) {
  ASSERT_OK_AND_ASSIGN(const BaseModel base, LoadBase(PosixFileSystem(), GoldenPath("llama")));
  const LlamaConfig& config = base.config();
  ASSERT_OK_AND_ASSIGN(const PeftAdapter peft,
                       ReadPeftFolder(PosixFileSystem(), GoldenPath("llama_adapter"),
                                      {.base_modules = LinearLayers(config)}));
  const Expected expected = ReadExpected("llama_adapter");
  ASSERT_OK_AND_ASSIGN(const LoraTensors lora, LoraTensorsFromAdapter(config, peft.adapter));
  EXPECT_LT(ReferenceGap(*base.weights, &lora, expected), 1e-4);
  EXPECT_GT(ReferenceGap(*base.weights, nullptr, expected), 0.1);
  ASSERT_OK_AND_ASSIGN(const auto engine, Engine::Create(base.weights));
  ASSERT_OK_AND_ASSIGN(const std::string digest, engine->LoadAdapter(peft.adapter));
  EXPECT_LT(EngineGap(*engine, digest, expected), 1e-4);
}

// A Hugging Face folder made of `weights`, with changes.
class HfFolder {
 public:
  explicit HfFolder(const LlamaWeights& weights) {
    for (const NamedTensor& named : NamedTensors(weights)) Put(named.name, named.tensor);
    const LlamaConfig& c = weights.config;
    config = {{"model_type", "llama"},
              {"vocab_size", c.vocab_size},
              {"hidden_size", c.hidden_size},
              {"intermediate_size", c.intermediate_size},
              {"num_hidden_layers", c.num_layers},
              {"num_attention_heads", c.num_heads},
              {"num_key_value_heads", c.num_kv_heads},
              {"head_dim", c.head_dim},
              {"rms_norm_eps", c.rms_norm_eps},
              {"max_position_embeddings", c.max_positions},
              {"tie_word_embeddings", c.tied_head}};
  }
  void Put(const std::string& name, const at::Tensor& tensor) { tensors[name] = tensor.clone(); }

  absl::StatusOr<BaseModel> Load() const {
    Write("model.safetensors", tensors);
    WriteConfig();
    return LoadBase(PosixFileSystem(), dir.path());
  }
  void WriteConfig() const {
    EXPECT_TRUE(PosixFileSystem().WriteFileAtomic(dir.Join("config.json"), config.dump()).ok());
  }
  void Write(const std::string& name, const std::map<std::string, at::Tensor>& list) const {
    std::vector<TensorView> views;
    for (const auto& [key, tensor] : list) {
      views.push_back({.name = key,
                       .dtype = DType::kF32,
                       .shape = tensor.sizes().vec(),
                       .bytes = {static_cast<const uint8_t*>(tensor.const_data_ptr()),
                                 static_cast<size_t>(tensor.nbytes())}});
    }
    EXPECT_TRUE(WriteSafetensors(PosixFileSystem(), dir.Join(name), views, {}).ok());
  }

  TempDir dir;
  Json config;
  std::map<std::string, at::Tensor> tensors;
};

TEST(LoadBase, RefusesWrongTensorsByName) {
  const auto weights = RandomWeights(SmallConfig(), 3);
  const std::string up = "model.layers.1.mlp.up_proj.weight";
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  {
    HfFolder folder(*weights);
    folder.tensors.erase(up);
    EXPECT_THAT(folder.Load(), StatusIs(kInvalid, HasSubstr("tensor " + up + " is missing")));
  }
  {
    HfFolder folder(*weights);
    folder.tensors.erase("lm_head.weight");
    EXPECT_THAT(folder.Load(), StatusIs(kInvalid, HasSubstr("lm_head.weight is missing")));
  }
  {
    HfFolder folder(*weights);
    folder.Put("model.layers.3.mlp.up_proj.weight", folder.tensors[up]);
    EXPECT_THAT(folder.Load(), StatusIs(kInvalid, HasSubstr("model.layers.3.mlp.up_proj.weight is "
                                                            "not part of this architecture")));
  }
  {
    HfFolder folder(*weights);
    folder.Put("model.layers.1.self_attn.q_proj.bias", at::zeros({60}));
    EXPECT_THAT(folder.Load(), StatusIs(kInvalid, HasSubstr("q_proj.bias is not part of")));
  }
  {
    HfFolder folder(*weights);
    folder.Put(up, at::zeros({44, 25}));
    EXPECT_THAT(
        folder.Load(),
        StatusIs(kInvalid, HasSubstr(up + ": shape [44, 25], the config asks for [44, 24]")));
  }
  for (float bad : {std::nanf(""), INFINITY, -INFINITY}) {
    HfFolder folder(*weights);
    folder.tensors[up].view(-1)[1055] = bad;
    EXPECT_THAT(folder.Load(), StatusIs(kInvalid, HasSubstr(up + ": value 1055 is")));
  }
  {
    HfFolder folder(*weights);
    folder.config["num_hidden_layers"] = 1000;
    EXPECT_THAT(folder.Load(), StatusIs(kInvalid, HasSubstr("model.layers.10.input_layernorm")));
  }
}

TEST(LoadBase, AStoredHeadOfATiedModelDecidesByItsValues) {
  LlamaConfig config = SmallConfig();
  config.tied_head = true;
  const auto weights = RandomWeights(config, 3);
  HfFolder folder(*weights);
  ASSERT_OK_AND_ASSIGN(const BaseModel plain, folder.Load());
  EXPECT_TRUE(plain.config().tied_head);
  EXPECT_TRUE(plain.weights->head.is_same(plain.weights->embedding));

  folder.Put("lm_head.weight", weights->embedding);
  ASSERT_OK_AND_ASSIGN(const BaseModel equal, folder.Load());
  EXPECT_EQ(equal.weights_fingerprint, plain.weights_fingerprint);

  folder.Put("lm_head.weight", weights->embedding * 2);
  ASSERT_OK_AND_ASSIGN(const BaseModel different, folder.Load());
  EXPECT_FALSE(different.config().tied_head);
  EXPECT_EQ(different.weights->head[3][5].item<float>(),
            weights->embedding[3][5].item<float>() * 2);
  EXPECT_NE(different.weights_fingerprint, plain.weights_fingerprint);
}

TEST(LoadBase, ShardsAndOldRopeTensorsLoadAsOneFile) {
  const auto weights = RandomWeights(SmallConfig(), 3);
  HfFolder one(*weights);
  ASSERT_OK_AND_ASSIGN(const BaseModel whole, one.Load());
  HfFolder folder(*weights);
  folder.Put("model.layers.0.self_attn.rotary_emb.inv_freq", at::zeros({5}));
  folder.WriteConfig();
  std::map<std::string, at::Tensor> shards[2];
  Json map = Json::object();
  int i = 0;
  for (const auto& [name, tensor] : folder.tensors) {
    shards[i % 2][name] = tensor;
    map[name] = "model-" + std::to_string(i++ % 2) + ".safetensors";
  }
  folder.Write("model-0.safetensors", shards[0]);
  folder.Write("model-1.safetensors", shards[1]);
  const Json index = {{"metadata", {{"total_size", 1}}}, {"weight_map", map}};
  ASSERT_TRUE(PosixFileSystem()
                  .WriteFileAtomic(folder.dir.Join("model.safetensors.index.json"), index.dump())
                  .ok());
  ASSERT_OK_AND_ASSIGN(const BaseModel base, LoadBase(PosixFileSystem(), folder.dir.path()));
  EXPECT_EQ(base.weights_fingerprint, whole.weights_fingerprint);
}

TEST(Fingerprints, ChangeWithWhatTheyCover) {
  const auto weights = RandomWeights(SmallConfig(), 3);
  ASSERT_OK_AND_ASSIGN(const std::string original, WeightsFingerprint(*weights));
  LlamaWeights other = *weights;
  other.config.rope_theta = 20000;
  ASSERT_OK_AND_ASSIGN(const std::string theta, WeightsFingerprint(other));
  EXPECT_NE(theta, original);
  EXPECT_EQ(ShapeFingerprint(other.config), ShapeFingerprint(weights->config));
  other = *weights;
  other.layers[2].down = other.layers[2].down.clone();
  other.layers[2].down[0][0] += 1e-3;
  ASSERT_OK_AND_ASSIGN(const std::string value, WeightsFingerprint(other));
  EXPECT_NE(value, original);
  LlamaConfig wider = weights->config;
  wider.intermediate_size += 1;
  EXPECT_NE(ShapeFingerprint(wider), ShapeFingerprint(weights->config));
}

TEST(LoadBase, WeightsInFewBitsAreTheRoundedOnesOfTheFile) {
  for (const char* folder : {"llama", "qwen3"}) {
    SCOPED_TRACE(folder);
    const std::string path = GoldenPath(folder);
    ASSERT_OK_AND_ASSIGN(const BaseModel plain, LoadBase(PosixFileSystem(), path));
    for (const WeightStorage storage :
         {WeightStorage::kBf16, WeightStorage::kInt8, WeightStorage::kQ4}) {
      ASSERT_OK_AND_ASSIGN(
          const BaseModel compact,
          LoadBase(PosixFileSystem(), path, {.fingerprint_weights = false, .storage = storage}));
      EXPECT_EQ(compact.shape_fingerprint, plain.shape_fingerprint);
      ASSERT_OK_AND_ASSIGN(const std::string loaded,
                           WeightsFingerprint(WidenedCopy(*compact.weights)));
      ASSERT_OK_AND_ASSIGN(const std::string rounded,
                           WeightsFingerprint(WidenedCopy(CompactCopy(*plain.weights, storage))));
      EXPECT_EQ(loaded, rounded);
      EXPECT_THAT(LoadBase(PosixFileSystem(), path, {.storage = storage}).status(),
                  StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("no fingerprint")));
    }
  }
}

TEST(LoadBase, NamesFilesThatAreNotModels) {
  TempDir dir;
  EXPECT_THAT(LoadBase(PosixFileSystem(), dir.Join("none")),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("none")));
  ASSERT_TRUE(PosixFileSystem().WriteFileAtomic(dir.Join("x"), "short").ok());
  EXPECT_THAT(LoadBase(PosixFileSystem(), dir.Join("x")),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr("only 5 bytes")));
  ASSERT_TRUE(PosixFileSystem().WriteFileAtomic(dir.Join("x"), std::string(500, '~')).ok());
  EXPECT_THAT(LoadBase(PosixFileSystem(), dir.Join("x")),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("llama2.c header")));
}

}  // namespace
}  // namespace evolora
