#include "hf_config.h"

#include <algorithm>
#include <limits>
#include <set>
#include <string>

#include "absl/strings/str_cat.h"
#include "evolora/core/json.h"
#include "evolora/core/status_macros.h"

namespace evolora {
namespace {

constexpr int64_t kMaxInt = std::numeric_limits<int64_t>::max();

// What transformers takes when a key is absent or null.
struct Family {
  const char* model_type;
  const char* class_name;
  int64_t kv_heads;  // 0: as many as heads
  int64_t head_dim;  // 0: hidden_size / heads
  int64_t max_positions;
  int64_t sliding_window;
  bool has_window;          // the family knows sliding windows
  bool has_layer_types;     // ... switched by use_sliding_window, per layer
  bool has_attention_bias;  // the key attention_bias is understood
};
constexpr Family kFamilies[] = {
    {"llama", "LlamaForCausalLM", 0, 0, 2048, 0, false, false, true},
    {"mistral", "MistralForCausalLM", 8, 0, 131072, 4096, true, false, false},
    {"qwen2", "Qwen2ForCausalLM", 32, 0, 32768, 4096, true, true, false},
    {"qwen3", "Qwen3ForCausalLM", 32, 128, 32768, 4096, true, true, true},
};

// Keys without influence on the logits.
const std::set<std::string>& IgnoredKeys() {
  static const auto* const keys = new std::set<std::string>{"_name_or_path",
                                                            "torch_dtype",
                                                            "dtype",
                                                            "transformers_version",
                                                            "bos_token_id",
                                                            "eos_token_id",
                                                            "pad_token_id",
                                                            "unk_token_id",
                                                            "use_cache",
                                                            "is_decoder",
                                                            "is_llama_config",
                                                            "initializer_range",
                                                            "attention_dropout",
                                                            "output_attentions",
                                                            "output_hidden_states",
                                                            "return_dict",
                                                            "chunk_size_feed_forward",
                                                            "is_encoder_decoder",
                                                            "problem_type",
                                                            "id2label",
                                                            "label2id",
                                                            "transformers.js_config",
                                                            "_attn_implementation_autoset",
                                                            "unsloth_fixed",
                                                            "unsloth_version",
                                                            "max_window_layers"};
  return *keys;
}

// The object without its null entries: transformers reads null as absent for the keys used here,
// except sliding_window, where null means none.
Json WithoutNulls(const Json& object) {
  Json result = Json::object();
  for (const auto& [key, value] : object.items()) {
    if (!value.is_null()) result[key] = value;
  }
  return result;
}

absl::Status RefuseUnknown(const Json& object, const std::set<std::string>& known,
                           absl::string_view path) {
  for (const auto& [key, value] : object.items()) {
    if (known.count(key) == 0 && IgnoredKeys().count(key) == 0) {
      return absl::UnimplementedError(absl::StrCat(path, ": key \"", key, "\" is not known"));
    }
  }
  return absl::OkStatus();
}

absl::Status RefuseUnless(bool ok, absl::string_view key, const Json& value) {
  if (ok) return absl::OkStatus();
  return absl::UnimplementedError(
      absl::StrCat("config.json: ", key, " = ", DisplayJson(value), " is not implemented"));
}

absl::StatusOr<Family> FindFamily(const Json& config) {
  if (!config.contains("model_type") || !config["model_type"].is_string()) {
    return absl::InvalidArgumentError("config.json: model_type is missing");
  }
  for (const Family& family : kFamilies) {
    if (config["model_type"] != family.model_type) continue;
    if (config.contains("architectures")) {
      RETURN_IF_ERROR(RefuseUnless(config["architectures"] == Json::array({family.class_name}),
                                   "architectures", config["architectures"]));
    }
    return family;
  }
  return absl::UnimplementedError(
      absl::StrCat("config.json: model_type = ", DisplayJson(config["model_type"]),
                   " (llama, mistral, qwen2 and qwen3 are known)"));
}

// Switches that must have the value under which they change nothing.
absl::Status CheckSwitches(const Json& config) {
  struct Switch {
    const char* key;
    Json neutral;
  };
  for (const Switch& s :
       {Switch{"hidden_act", "silu"}, Switch{"mlp_bias", false}, Switch{"pretraining_tp", 1},
        Switch{"rope_interleaved", false}, Switch{"partial_rotary_factor", 1},
        Switch{"tie_encoder_decoder", false}, Switch{"add_cross_attention", false}}) {
    if (!config.contains(s.key)) continue;
    RETURN_IF_ERROR(RefuseUnless(config[s.key] == s.neutral, s.key, config[s.key]));
  }
  return absl::OkStatus();
}

absl::Status ReadRope(const Json& config, LlamaConfig& c) {
  const char* name = config.contains("rope_scaling") ? "rope_scaling" : "rope_parameters";
  const Json rope = WithoutNulls(config.value(name, Json::object()));
  const std::string path = absl::StrCat("config.json: ", name);
  RETURN_IF_ERROR(RefuseUnknown(rope,
                                {"rope_type", "type", "rope_theta", "factor", "low_freq_factor",
                                 "high_freq_factor", "original_max_position_embeddings"},
                                path));
  JsonFields f(rope, path);
  JsonFields top(config, "config.json");
  c.rope_theta =
      f.OptionalNumber("rope_theta").value_or(top.OptionalNumber("rope_theta").value_or(10000));
  const std::string old_name = f.OptionalString("type").value_or("default");
  const std::string type = f.OptionalString("rope_type").value_or(old_name);
  if (type == "linear" || type == "llama3") c.rope_factor = f.Number("factor");
  if (type == "linear") {
    c.rope_scaling = RopeScaling::kLinear;
  } else if (type == "llama3") {
    c.rope_scaling = RopeScaling::kLlama3;
    c.rope_low_freq_factor = f.Number("low_freq_factor");
    c.rope_high_freq_factor = f.Number("high_freq_factor");
    c.rope_original_positions =
        f.OptionalInteger("original_max_position_embeddings", 1, kMaxInt).value_or(c.max_positions);
  } else {
    RETURN_IF_ERROR(RefuseUnless(type == "default", absl::StrCat(name, ".rope_type"), type));
  }
  RETURN_IF_ERROR(top.status());
  return f.status();
}

// Which layers use the window, from layer_types or from max_window_layers.
absl::Status ReadLayerWindows(const Json& config, LlamaConfig& c) {
  JsonFields f(config, "config.json");
  const bool use_window = f.OptionalBool("use_sliding_window").value_or(false);
  if (!use_window) c.sliding_window = 0;
  const int64_t first = f.OptionalInteger("max_window_layers", 0, kMaxInt).value_or(28);
  RETURN_IF_ERROR(f.status());
  for (int64_t i = 0; i < c.num_layers; ++i)
    c.layer_uses_window.push_back(use_window && i >= first);
  if (config.contains("layer_types")) {
    const std::vector<std::string> types = f.StringArray("layer_types");
    RETURN_IF_ERROR(f.status());
    c.layer_uses_window.clear();
    for (const std::string& type : types) {
      const bool is_window = type == "sliding_attention";
      RETURN_IF_ERROR(RefuseUnless(is_window || type == "full_attention", "layer_types", type));
      if (is_window && c.sliding_window == 0) {
        return absl::InvalidArgumentError(
            "config.json: layer_types has sliding_attention, but there is no sliding_window");
      }
      c.layer_uses_window.push_back(is_window);
    }
  }
  const auto& uses = c.layer_uses_window;
  if (std::find(uses.begin(), uses.end(), true) == uses.end() &&
      static_cast<int64_t>(uses.size()) == c.num_layers) {
    c.sliding_window = 0;
    c.layer_uses_window.clear();
  }
  return absl::OkStatus();
}

std::set<std::string> KnownKeys(const Family& family) {
  std::set<std::string> known = {"model_type",
                                 "architectures",
                                 "vocab_size",
                                 "hidden_size",
                                 "intermediate_size",
                                 "num_hidden_layers",
                                 "num_attention_heads",
                                 "num_key_value_heads",
                                 "head_dim",
                                 "max_position_embeddings",
                                 "rms_norm_eps",
                                 "rope_theta",
                                 "rope_scaling",
                                 "rope_parameters",
                                 "tie_word_embeddings",
                                 "hidden_act",
                                 "mlp_bias",
                                 "pretraining_tp",
                                 "rope_interleaved",
                                 "partial_rotary_factor",
                                 "tie_encoder_decoder",
                                 "add_cross_attention"};
  if (family.has_window) known.insert("sliding_window");
  if (family.has_layer_types) known.insert({"use_sliding_window", "layer_types"});
  if (family.has_attention_bias) known.insert("attention_bias");
  return known;
}

absl::Status ReadSizes(const Json& config, const Family& family, LlamaConfig& c) {
  JsonFields f(config, "config.json");
  c.vocab_size = f.Integer("vocab_size", 1, kMaxInt);
  c.hidden_size = f.Integer("hidden_size", 1, kMaxInt);
  c.intermediate_size = f.Integer("intermediate_size", 1, kMaxInt);
  c.num_layers = f.Integer("num_hidden_layers", 1, kMaxInt);
  c.num_heads = f.Integer("num_attention_heads", 1, kMaxInt);
  c.max_positions =
      f.OptionalInteger("max_position_embeddings", 1, kMaxInt).value_or(family.max_positions);
  c.rms_norm_eps = f.OptionalNumber("rms_norm_eps").value_or(1e-6);
  c.tied_head = f.OptionalBool("tie_word_embeddings").value_or(false);
  const bool attention_bias = f.OptionalBool("attention_bias").value_or(false);
  const auto kv_heads = f.OptionalInteger("num_key_value_heads", 1, kMaxInt);
  const auto head_dim = f.OptionalInteger("head_dim", 1, kMaxInt);
  const auto window = f.OptionalInteger("sliding_window", 1, kMaxInt);
  RETURN_IF_ERROR(f.status());
  c.num_kv_heads = kv_heads.value_or(family.kv_heads > 0 ? family.kv_heads : c.num_heads);
  c.head_dim =
      head_dim.value_or(family.head_dim > 0 ? family.head_dim : c.hidden_size / c.num_heads);
  c.sliding_window = window.value_or(family.sliding_window);
  c.qk_norm = c.architecture == "qwen3";
  c.qkv_bias = attention_bias || c.architecture == "qwen2";
  c.output_bias = attention_bias;
  if (!head_dim && family.head_dim == 0 && c.hidden_size % c.num_heads != 0) {
    return absl::InvalidArgumentError(absl::StrCat("config.json: hidden_size = ", c.hidden_size,
                                                   " is not a multiple of ", c.num_heads,
                                                   " heads, and there is no head_dim"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<LlamaConfig> ParseHfConfig(absl::string_view json_text) {
  absl::StatusOr<Json> parsed = ParseJson(json_text);
  if (!parsed.ok()) return Annotate(parsed.status(), "config.json");
  if (!parsed->is_object()) return absl::InvalidArgumentError("config.json: not an object");
  const bool window_is_null =
      parsed->contains("sliding_window") && (*parsed)["sliding_window"].is_null();
  const bool kv_is_null =
      parsed->contains("num_key_value_heads") && (*parsed)["num_key_value_heads"].is_null();
  const Json config = WithoutNulls(*parsed);
  ASSIGN_OR_RETURN(Family family, FindFamily(config));
  if (window_is_null) family.sliding_window = 0;
  if (kv_is_null) family.kv_heads = 0;
  LlamaConfig c;
  c.architecture = family.model_type;
  RETURN_IF_ERROR(RefuseUnknown(config, KnownKeys(family), "config.json"));
  RETURN_IF_ERROR(CheckSwitches(config));
  RETURN_IF_ERROR(ReadSizes(config, family, c));
  RETURN_IF_ERROR(ReadRope(config, c));
  // Sizes first: ReadLayerWindows counts layers.
  RETURN_IF_ERROR(ValidateLlamaConfig(c));
  if (family.has_layer_types) RETURN_IF_ERROR(ReadLayerWindows(config, c));
  RETURN_IF_ERROR(ValidateLlamaConfig(c));
  return c;
}

}  // namespace evolora
