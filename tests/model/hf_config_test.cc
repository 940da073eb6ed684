#include "hf_config.h"

#include "evolora/core/file_system.h"
#include "evolora/core/json.h"
#include "support/status_matchers.h"
#include "support/temp_dir.h"

namespace evolora {
namespace {

using ::testing::HasSubstr;
using testing::StatusIs;

// A config with the sizes that have no default, and what `patch` adds or (null) removes.
std::string Config(const char* model_type, const char* patch = "{}") {
  Json json = {{"model_type", model_type}, {"vocab_size", 100},
               {"hidden_size", 64},        {"intermediate_size", 96},
               {"num_hidden_layers", 3},   {"num_attention_heads", 8},
               {"num_key_value_heads", 2}, {"max_position_embeddings", 256}};
  const Json changes = Json::parse(patch);
  for (const auto& [key, value] : changes.items()) {
    if (value == "REMOVE") {
      json.erase(key);
    } else {
      json[key] = value;
    }
  }
  return json.dump();
}

TEST(HfConfig, ReadsBothRopeStylesAlike) {
  const std::string dir = testing::SourcePath("tests/golden/model/llama3");
  for (const char* name : {"config.json", "config_old_style.json"}) {
    SCOPED_TRACE(name);
    ASSERT_OK_AND_ASSIGN(const std::string text,
                         PosixFileSystem().ReadFile(JoinPath(dir, name), 1 << 20));
    ASSERT_OK_AND_ASSIGN(const LlamaConfig c, ParseHfConfig(text));
    EXPECT_EQ(c.rope_scaling, RopeScaling::kLlama3);
    EXPECT_EQ(c.rope_theta, 5000);
    EXPECT_EQ(c.rope_factor, 8);
    EXPECT_EQ(c.rope_low_freq_factor, 1);
    EXPECT_EQ(c.rope_high_freq_factor, 4);
    EXPECT_EQ(c.rope_original_positions, 32);
    EXPECT_EQ(c.head_dim, 8);
  }
}

TEST(HfConfig, RopeScalingReplacesRopeParametersEntirely) {
  ASSERT_OK_AND_ASSIGN(
      const LlamaConfig c,
      ParseHfConfig(Config("llama", R"({"rope_parameters": {"rope_type": "llama3", "rope_theta": 7},
                                        "rope_theta": 300,
                                        "rope_scaling": {"type": "linear", "factor": 2}})")));
  EXPECT_EQ(c.rope_scaling, RopeScaling::kLinear);
  EXPECT_EQ(c.rope_factor, 2);
  EXPECT_EQ(c.rope_theta, 300);
}

TEST(HfConfig, AbsentKeysTakeTheFamilysDefaults) {
  const char* kOnlySizes =
      R"({"num_key_value_heads": "REMOVE", "max_position_embeddings": "REMOVE",
          "num_attention_heads": 32})";
  ASSERT_OK_AND_ASSIGN(const LlamaConfig llama, ParseHfConfig(Config("llama", kOnlySizes)));
  EXPECT_EQ(llama.num_kv_heads, 32);
  EXPECT_EQ(llama.head_dim, 2);
  EXPECT_EQ(llama.max_positions, 2048);
  EXPECT_EQ(llama.rms_norm_eps, 1e-6);
  EXPECT_EQ(llama.rope_theta, 10000);
  EXPECT_FALSE(llama.tied_head || llama.qkv_bias || llama.output_bias || llama.qk_norm);
  EXPECT_EQ(llama.sliding_window, 0);

  ASSERT_OK_AND_ASSIGN(const LlamaConfig mistral, ParseHfConfig(Config("mistral", kOnlySizes)));
  EXPECT_EQ(mistral.num_kv_heads, 8);
  EXPECT_EQ(mistral.sliding_window, 4096);
  EXPECT_EQ(mistral.max_positions, 131072);

  ASSERT_OK_AND_ASSIGN(const LlamaConfig qwen2, ParseHfConfig(Config("qwen2", kOnlySizes)));
  EXPECT_EQ(qwen2.num_kv_heads, 32);
  EXPECT_TRUE(qwen2.qkv_bias);
  EXPECT_FALSE(qwen2.output_bias);
  EXPECT_EQ(qwen2.sliding_window, 0);

  ASSERT_OK_AND_ASSIGN(const LlamaConfig qwen3, ParseHfConfig(Config("qwen3", kOnlySizes)));
  EXPECT_EQ(qwen3.head_dim, 128);
  EXPECT_TRUE(qwen3.qk_norm);
  EXPECT_FALSE(qwen3.qkv_bias);
}

TEST(HfConfig, NullMeansNoWindowAndAsManyKeyHeadsAsHeads) {
  ASSERT_OK_AND_ASSIGN(
      const LlamaConfig c,
      ParseHfConfig(Config("mistral", R"({"sliding_window": null, "num_key_value_heads": null,
                                          "head_dim": null})")));
  EXPECT_EQ(c.sliding_window, 0);
  EXPECT_EQ(c.num_kv_heads, 8);
  EXPECT_EQ(c.head_dim, 8);
}

TEST(HfConfig, QwenWindowsFollowTheirSwitchAndLayers) {
  ASSERT_OK_AND_ASSIGN(const LlamaConfig off,
                       ParseHfConfig(Config("qwen2", R"({"sliding_window": 16})")));
  EXPECT_EQ(off.sliding_window, 0);
  ASSERT_OK_AND_ASSIGN(
      const LlamaConfig on,
      ParseHfConfig(Config("qwen2", R"({"sliding_window": 16, "use_sliding_window": true,
                                        "max_window_layers": 1})")));
  EXPECT_EQ(on.sliding_window, 16);
  EXPECT_EQ(on.layer_uses_window, (std::vector<bool>{false, true, true}));
  ASSERT_OK_AND_ASSIGN(
      const LlamaConfig typed,
      ParseHfConfig(Config("qwen3", R"({"sliding_window": 16, "use_sliding_window": true,
        "layer_types": ["sliding_attention", "full_attention", "full_attention"]})")));
  EXPECT_EQ(typed.layer_uses_window, (std::vector<bool>{true, false, false}));
}

TEST(HfConfig, RefusesWhatItDoesNotUnderstandByName) {
  struct Row {
    const char* model_type;
    const char* patch;
    absl::StatusCode code;
    const char* message;
  };
  constexpr auto kUnimplemented = absl::StatusCode::kUnimplemented;
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  const std::vector<Row> rows = {
      {"gemma", "{}", kUnimplemented, "model_type = \"gemma\""},
      {"llama", R"({"flux_capacitor": 1})", kUnimplemented, "key \"flux_capacitor\""},
      {"llama", R"({"quantization_config": {"bits": 4}})", kUnimplemented, "quantization_config"},
      {"llama", R"({"num_local_experts": 8})", kUnimplemented, "num_local_experts"},
      {"llama", R"({"sliding_window": 8})", kUnimplemented, "sliding_window"},
      {"llama", R"({"hidden_act": "gelu"})", kUnimplemented, "hidden_act = \"gelu\""},
      {"llama", R"({"mlp_bias": true})", kUnimplemented, "mlp_bias = true"},
      {"llama", R"({"pretraining_tp": 2})", kUnimplemented, "pretraining_tp = 2"},
      {"llama", R"({"rope_interleaved": true})", kUnimplemented, "rope_interleaved"},
      {"llama", R"({"partial_rotary_factor": 0.5})", kUnimplemented, "partial_rotary_factor"},
      {"llama", R"({"architectures": ["LlamaForSequenceClassification"]})", kUnimplemented,
       "architectures"},
      {"llama", R"({"rope_scaling": {"rope_type": "yarn", "factor": 2}})", kUnimplemented, "yarn"},
      {"llama", R"({"rope_scaling": {"rope_type": "linear", "factor": 2, "beta_fast": 1}})",
       kUnimplemented, "rope_scaling: key \"beta_fast\""},
      {"qwen2", R"({"layer_types": ["chunked_attention", "full_attention", "full_attention"]})",
       kUnimplemented, "layer_types = \"chunked_attention\""},
      {"llama", R"({"hidden_size": "REMOVE"})", kInvalid, "hidden_size"},
      {"llama", R"({"hidden_size": "64"})", kInvalid, "hidden_size"},
      {"llama", R"({"hidden_size": 65})", kInvalid,
       "hidden_size = 65 is not a multiple of 8 heads"},
      {"llama", R"({"rope_scaling": {"rope_type": "linear"}})", kInvalid, "factor"},
      {"llama", R"({"rope_theta": 0})", kInvalid, "rope_theta = 0"},
      {"llama", R"({"num_hidden_layers": 1000000000})", kInvalid, "num_hidden_layers"},
      {"qwen2", R"({"layer_types": ["full_attention"], "use_sliding_window": true})", kInvalid,
       "1 window flags for 3 layers"},
      {"qwen2", R"({"layer_types": ["sliding_attention", "full_attention", "full_attention"]})",
       kInvalid, "there is no sliding_window"},
  };
  for (const Row& row : rows) {
    SCOPED_TRACE(row.patch);
    EXPECT_THAT(ParseHfConfig(Config(row.model_type, row.patch)),
                StatusIs(row.code, HasSubstr(row.message)));
  }
  EXPECT_THAT(ParseHfConfig("[]"), StatusIs(kInvalid, HasSubstr("not an object")));
  EXPECT_THAT(ParseHfConfig("{"), StatusIs(kInvalid, HasSubstr("config.json")));
}

}  // namespace
}  // namespace evolora
