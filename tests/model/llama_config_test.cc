#include "evolora/model/llama_config.h"

#include <functional>
#include <limits>

#include "evolora/model/llama_weights.h"
#include "model/random_model.h"
#include "support/status_matchers.h"

namespace evolora {
namespace {

using ::testing::HasSubstr;
using testing::SmallConfig;
using testing::StatusIs;

TEST(LlamaConfig, ValidationNamesTheKeyAndTheNumber) {
  struct Row {
    std::function<void(LlamaConfig&)> spoil;
    const char* message;
  };
  const std::vector<Row> rows = {
      {[](LlamaConfig& c) { c.architecture = "gpt2"; }, "unknown architecture \"gpt2\""},
      {[](LlamaConfig& c) { c.vocab_size = 1; }, "vocab_size = 1"},
      {[](LlamaConfig& c) { c.vocab_size = int64_t{1} << 40; }, "vocab_size = 1099511627776"},
      {[](LlamaConfig& c) { c.hidden_size = 0; }, "hidden_size = 0"},
      {[](LlamaConfig& c) { c.intermediate_size = -3; }, "intermediate_size = -3"},
      {[](LlamaConfig& c) { c.num_layers = 1000000000; }, "num_hidden_layers = 1000000000"},
      {[](LlamaConfig& c) { c.num_kv_heads = 4; }, "num_attention_heads = 6 is not a multiple"},
      {[](LlamaConfig& c) { c.num_kv_heads = 12; }, "num_key_value_heads = 12"},
      {[](LlamaConfig& c) { c.head_dim = 9; }, "head_dim = 9 is odd"},
      {[](LlamaConfig& c) { c.max_positions = 0; }, "max_position_embeddings = 0"},
      {[](LlamaConfig& c) { c.rms_norm_eps = 0; }, "rms_norm_eps = 0"},
      {[](LlamaConfig& c) { c.rms_norm_eps = std::numeric_limits<double>::quiet_NaN(); },
       "rms_norm_eps = nan"},
      {[](LlamaConfig& c) { c.rope_theta = -1; }, "rope_theta = -1"},
      {[](LlamaConfig& c) { c.rope_theta = std::numeric_limits<double>::infinity(); },
       "rope_theta = inf"},
      {[](LlamaConfig& c) {
         c.rope_scaling = RopeScaling::kLinear;
         c.rope_factor = 0;
       },
       "rope factor = 0"},
      {[](LlamaConfig& c) {
         c.rope_scaling = RopeScaling::kLlama3;
         c.rope_original_positions = 32;
         c.rope_low_freq_factor = 4;
       },
       "high_freq_factor = 4 is not above low_freq_factor = 4"},
      {[](LlamaConfig& c) { c.rope_scaling = RopeScaling::kLlama3; },
       "original_max_position_embeddings = 0"},
      {[](LlamaConfig& c) {
         c.rope_freq_factors = {1, 2};
       },
       "2 rope frequency factors for 5"},
      {[](LlamaConfig& c) {
         c.rope_freq_factors = {1, 2, 3, 4, 0};
       },
       "factor = 0"},
      {[](LlamaConfig& c) { c.layer_uses_window = {true}; }, "1 window flags for 3 layers"},
  };
  EXPECT_TRUE(ValidateLlamaConfig(SmallConfig()).ok());
  for (const Row& row : rows) {
    SCOPED_TRACE(row.message);
    LlamaConfig config = SmallConfig();
    row.spoil(config);
    EXPECT_THAT(ValidateLlamaConfig(config),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(row.message)));
  }
}

TEST(LlamaConfig, ParametersAreThoseOfTheTensors) {
  for (bool flag : {false, true}) {
    LlamaConfig config = SmallConfig();
    config.tied_head = config.qkv_bias = config.output_bias = config.qk_norm = flag;
    int64_t count = 0;
    for (const NamedTensor& named : NamedTensors(*testing::RandomWeights(config, 1))) {
      count += named.tensor.numel();
    }
    EXPECT_EQ(CountParameters(config), count);
  }
}

TEST(LlamaConfig, SmolLm2HasItsPublishedSizeAndFlops) {
  LlamaConfig c;
  c.architecture = "llama";
  c.vocab_size = 49152;
  c.hidden_size = 576;
  c.intermediate_size = 1536;
  c.num_layers = 30;
  c.num_heads = 9;
  c.num_kv_heads = 3;
  c.head_dim = 64;
  c.max_positions = 8192;
  c.tied_head = true;
  EXPECT_EQ(CountParameters(c), 134515008);
  EXPECT_EQ(HeadFlopsPerRow(c), 2.0 * 49152 * 576);
  // 106,168,320 weights of linear layers; 4 * 576 per position and layer.
  EXPECT_EQ(LayerFlopsPerToken(c, 0), 2.0 * 106168320 + 30 * 4 * 576);
  EXPECT_EQ(LayerFlopsPerToken(c, 99), 2.0 * 106168320 + 30 * 4 * 576 * 100.0);
}

TEST(LlamaConfig, AWindowBoundsTheAttendedPositions) {
  LlamaConfig config = SmallConfig();
  config.sliding_window = 8;
  EXPECT_EQ(LayerFlopsPerToken(config, 100), LayerFlopsPerToken(config, 7));
  config.layer_uses_window = {false, true, false};
  EXPECT_EQ(LayerWindow(config, 0), 0);
  EXPECT_EQ(LayerWindow(config, 1), 8);
}

TEST(LlamaWeights, LinearPathsFindTheirWeights) {
  const LlamaConfig config = SmallConfig();
  const auto weights = testing::RandomWeights(config, 1);
  const std::vector<std::string> paths = LinearModulePaths(config);
  EXPECT_EQ(paths.size(), 21u);
  EXPECT_EQ(paths[0], "model.layers.0.self_attn.q_proj");
  EXPECT_EQ(paths[13], "model.layers.1.mlp.down_proj");
  for (const std::string& path : paths) {
    const at::Tensor weight = FindLinear(*weights, path);
    const auto [out, in] = LinearShape(config, path);
    ASSERT_TRUE(weight.defined()) << path;
    EXPECT_EQ(weight.size(0), out);
    EXPECT_EQ(weight.size(1), in);
  }
  for (const char* path : {"lm_head", "model.layers.3.mlp.up_proj", "model.layers.00.mlp.up_proj",
                           "model.layers.-1.mlp.up_proj", "model.layers.1.mlp.up", "model.norm"}) {
    EXPECT_FALSE(FindLinear(*weights, path).defined()) << path;
    EXPECT_EQ(LinearShape(config, path).first, 0) << path;
  }
}

TEST(LlamaWeights, TensorsAreListedByName) {
  const LlamaConfig config = SmallConfig();
  const auto shapes = TensorShapes(config);
  const auto tensors = NamedTensors(*testing::RandomWeights(config, 1));
  ASSERT_EQ(shapes.size(), tensors.size());
  for (size_t i = 0; i < shapes.size(); ++i) {
    EXPECT_EQ(shapes[i].name, tensors[i].name);
    EXPECT_EQ(tensors[i].tensor.sizes(), at::IntArrayRef(shapes[i].shape));
    EXPECT_TRUE(i == 0 || shapes[i - 1].name < shapes[i].name) << shapes[i].name;
  }
}

}  // namespace
}  // namespace evolora
