#include "gguf_source.h"

#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "evolora/adapters/dequantize.h"
#include "evolora/core/status_macros.h"

namespace evolora {
namespace {

// The "<architecture>.*" keys of one file.
class Keys {
 public:
  Keys(const GgufFile& file, std::string prefix) : file_(file), prefix_(std::move(prefix)) {}

  bool Has(absl::string_view key) const { return file_.Has(absl::StrCat(prefix_, key)); }

  int64_t Integer(absl::string_view key) { return Take(file_.GetU64(absl::StrCat(prefix_, key))); }
  int64_t IntegerOr(absl::string_view key, int64_t fallback) {
    return Has(key) ? Integer(key) : fallback;
  }
  double Number(absl::string_view key) { return Take(file_.GetF32(absl::StrCat(prefix_, key))); }
  double NumberOr(absl::string_view key, double fallback) {
    return Has(key) ? Number(key) : fallback;
  }
  std::string TextOr(absl::string_view key, const char* fallback) {
    return Has(key) ? Take(file_.GetString(absl::StrCat(prefix_, key))) : fallback;
  }

  // Every key below the prefix must be in `known`.
  absl::Status RefuseUnknown(const std::set<absl::string_view>& known) const {
    for (const auto& [key, value] : file_.values()) {
      absl::string_view rest = key;
      if (absl::ConsumePrefix(&rest, prefix_) && known.count(rest) == 0) {
        return absl::UnimplementedError(absl::StrCat("GGUF key ", key, " is not known"));
      }
    }
    return absl::OkStatus();
  }

  // The first error of a getter.
  absl::Status status;

 private:
  template <typename T>
  T Take(absl::StatusOr<T> value) {
    if (value.ok()) return *std::move(value);
    if (status.ok()) status = value.status();
    return T();
  }

  const GgufFile& file_;
  std::string prefix_;
};

absl::Status RefuseUnless(bool ok, absl::string_view what) {
  if (ok) return absl::OkStatus();
  return absl::UnimplementedError(absl::StrCat("GGUF: ", what, " is not implemented"));
}

absl::Status ReadRope(Keys& keys, LlamaConfig& c) {
  c.rope_theta = keys.NumberOr("rope.freq_base", 10000);
  const int64_t rotated = keys.IntegerOr("rope.dimension_count", c.head_dim);
  const std::string type =
      keys.TextOr("rope.scaling.type", keys.Has("rope.scale_linear") ? "linear" : "none");
  if (type == "linear") {
    c.rope_scaling = RopeScaling::kLinear;
    c.rope_factor = keys.Has("rope.scaling.factor") ? keys.Number("rope.scaling.factor")
                                                    : keys.NumberOr("rope.scale_linear", 1);
  }
  RETURN_IF_ERROR(keys.status);
  RETURN_IF_ERROR(
      RefuseUnless(type == "none" || type == "linear", absl::StrCat("rope.scaling.type = ", type)));
  return RefuseUnless(rotated == c.head_dim,
                      absl::StrCat("rope.dimension_count = ", rotated, " of ", c.head_dim));
}

absl::StatusOr<LlamaConfig> ReadConfig(const GgufFile& file) {
  LlamaConfig c;
  ASSIGN_OR_RETURN(c.architecture, file.GetString("general.architecture"));
  RETURN_IF_ERROR(RefuseUnless(
      c.architecture == "llama" || c.architecture == "qwen2" || c.architecture == "qwen3",
      absl::StrCat("general.architecture = ", c.architecture)));
  Keys keys(file, c.architecture + ".");
  RETURN_IF_ERROR(keys.RefuseUnknown({"block_count",
                                      "context_length",
                                      "embedding_length",
                                      "feed_forward_length",
                                      "vocab_size",
                                      "attention.head_count",
                                      "attention.head_count_kv",
                                      "attention.layer_norm_rms_epsilon",
                                      "attention.key_length",
                                      "attention.value_length",
                                      "attention.sliding_window",
                                      "rope.freq_base",
                                      "rope.dimension_count",
                                      "rope.scaling.type",
                                      "rope.scaling.factor",
                                      "rope.scaling.original_context_length",
                                      "rope.scaling.finetuned",
                                      "rope.scale_linear",
                                      "expert_count",
                                      "expert_used_count"}));
  c.num_layers = keys.Integer("block_count");
  c.max_positions = keys.Integer("context_length");
  c.hidden_size = keys.Integer("embedding_length");
  c.intermediate_size = keys.Integer("feed_forward_length");
  c.num_heads = keys.Integer("attention.head_count");
  c.num_kv_heads = keys.IntegerOr("attention.head_count_kv", c.num_heads);
  c.rms_norm_eps = keys.Number("attention.layer_norm_rms_epsilon");
  RETURN_IF_ERROR(keys.status);
  if (c.num_heads < 1) return absl::InvalidArgumentError("GGUF: attention.head_count is below 1");
  c.head_dim = keys.IntegerOr("attention.key_length", c.hidden_size / c.num_heads);
  RETURN_IF_ERROR(RefuseUnless(keys.IntegerOr("attention.value_length", c.head_dim) == c.head_dim,
                               "attention.value_length that differs from attention.key_length"));
  c.sliding_window = keys.IntegerOr("attention.sliding_window", 0);
  RETURN_IF_ERROR(RefuseUnless(keys.IntegerOr("expert_count", 0) == 0, "expert_count > 0"));
  RETURN_IF_ERROR(ReadRope(keys, c));
  RETURN_IF_ERROR(keys.status);
  c.qk_norm = c.architecture == "qwen3";
  c.qkv_bias = file.FindTensor("blk.0.attn_q.bias") != nullptr;
  c.output_bias = file.FindTensor("blk.0.attn_output.bias") != nullptr;
  c.tied_head = file.FindTensor("output.weight") == nullptr;
  const GgufTensor* embedding = file.FindTensor("token_embd.weight");
  if (embedding == nullptr || embedding->shape.size() != 2) {
    return absl::InvalidArgumentError("GGUF: no token_embd.weight with two axes");
  }
  c.vocab_size = embedding->shape[0];
  return c;
}

// Hugging Face name of a GGUF tensor, "" when it is not known.
std::string HuggingFaceName(absl::string_view name) {
  static const auto* const whole = new std::map<absl::string_view, const char*>{
      {"token_embd.weight", "model.embed_tokens.weight"},
      {"output_norm.weight", "model.norm.weight"},
      {"output.weight", "lm_head.weight"}};
  static const auto* const in_block = new std::map<absl::string_view, const char*>{
      {"attn_norm", "input_layernorm"},    {"ffn_norm", "post_attention_layernorm"},
      {"attn_q", "self_attn.q_proj"},      {"attn_k", "self_attn.k_proj"},
      {"attn_v", "self_attn.v_proj"},      {"attn_output", "self_attn.o_proj"},
      {"attn_q_norm", "self_attn.q_norm"}, {"attn_k_norm", "self_attn.k_norm"},
      {"ffn_gate", "mlp.gate_proj"},       {"ffn_up", "mlp.up_proj"},
      {"ffn_down", "mlp.down_proj"}};
  const auto found = whole->find(name);
  if (found != whole->end()) return found->second;
  absl::string_view rest = name;
  if (!absl::ConsumePrefix(&rest, "blk.")) return "";
  const size_t dot = rest.find('.');
  const size_t last_dot = rest.rfind('.');
  int64_t layer = 0;
  if (dot == rest.npos || last_dot <= dot || !absl::SimpleAtoi(rest.substr(0, dot), &layer) ||
      absl::StrCat(layer) != rest.substr(0, dot)) {
    return "";
  }
  const absl::string_view kind = rest.substr(last_dot);
  const auto part = in_block->find(rest.substr(dot + 1, last_dot - dot - 1));
  if (part == in_block->end() || (kind != ".weight" && kind != ".bias")) return "";
  return absl::StrCat("model.layers.", layer, ".", part->second, kind);
}

// Llama files keep q and k in adjacent-pair order; the other architectures do not.
int64_t AdjacentPairHeads(const LlamaConfig& c, absl::string_view name) {
  if (c.architecture != "llama") return 0;
  if (absl::StrContains(name, ".attn_q.")) return c.num_heads;
  if (absl::StrContains(name, ".attn_k.")) return c.num_kv_heads;
  return 0;
}

absl::Status ReadFreqFactors(const GgufTensor& tensor, LlamaConfig& c) {
  if (tensor.type != GgmlType::kF32 || tensor.shape != std::vector<int64_t>{c.head_dim / 2}) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor rope_freqs.weight: not F32 of ", c.head_dim / 2, " values"));
  }
  std::vector<float> factors(static_cast<size_t>(c.head_dim / 2));
  RETURN_IF_ERROR(DequantizeToFloat(tensor.type, tensor.bytes, c.head_dim / 2, factors.data()));
  c.rope_freq_factors.assign(factors.begin(), factors.end());
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<WeightSource> OpenGguf(const GgufFile& file) {
  WeightSource source;
  ASSIGN_OR_RETURN(source.config, ReadConfig(file));
  RETURN_IF_ERROR(ValidateLlamaConfig(source.config));
  for (const GgufTensor& tensor : file.tensors()) {
    if (tensor.name == "rope_freqs.weight") {
      RETURN_IF_ERROR(ReadFreqFactors(tensor, source.config));
      continue;
    }
    const std::string name = HuggingFaceName(tensor.name);
    if (name.empty()) {
      return absl::InvalidArgumentError(
          absl::StrCat("GGUF tensor ", tensor.name, " is not part of a known architecture"));
    }
    ASSIGN_OR_RETURN(const int64_t count, CountElements(tensor.shape));
    source.tensors[name] = {.shape = tensor.shape,
                            .read =
                                [&tensor, count](float* out) {
                                  return DequantizeToFloat(tensor.type, tensor.bytes, count, out);
                                },
                            .adjacent_pair_heads = AdjacentPairHeads(source.config, tensor.name),
                            .exact = ExactBlocksOf(tensor),
                            .file_name = tensor.name};
  }
  return source;
}

absl::StatusOr<GgufVocabulary> ReadGgufVocabulary(const GgufFile& file) {
  GgufVocabulary v;
  const std::string prefix = "tokenizer.ggml.";
  ASSIGN_OR_RETURN(v.model, file.GetString(prefix + "model"));
  ASSIGN_OR_RETURN(v.tokens, file.GetStringArray(prefix + "tokens"));
  if (file.Has(prefix + "pre")) {
    ASSIGN_OR_RETURN(v.pre, file.GetString(prefix + "pre"));
  }
  if (file.Has(prefix + "merges")) {
    ASSIGN_OR_RETURN(v.merges, file.GetStringArray(prefix + "merges"));
  }
  if (file.Has(prefix + "scores")) {
    ASSIGN_OR_RETURN(v.scores, file.GetF32Array(prefix + "scores"));
  }
  if (file.Has(prefix + "token_type")) {
    ASSIGN_OR_RETURN(v.token_types, file.GetI32Array(prefix + "token_type"));
  }
  if (file.Has(prefix + "precompiled_charsmap")) {
    ASSIGN_OR_RETURN(v.precompiled_charsmap, file.GetString(prefix + "precompiled_charsmap"));
  }
  if (file.Has("tokenizer.chat_template")) {
    ASSIGN_OR_RETURN(v.chat_template, file.GetString("tokenizer.chat_template"));
  }
  struct IdKey {
    const char* key;
    TokenId* id;
  };
  for (const IdKey& k : {IdKey{"bos_token_id", &v.bos_id}, IdKey{"eos_token_id", &v.eos_id},
                         IdKey{"unknown_token_id", &v.unk_id}}) {
    if (!file.Has(prefix + k.key)) continue;
    ASSIGN_OR_RETURN(const uint32_t id, file.GetU32(prefix + k.key));
    *k.id = static_cast<TokenId>(id);
  }
  struct BoolKey {
    const char* key;
    std::optional<bool>* value;
  };
  for (const BoolKey& k :
       {BoolKey{"add_bos_token", &v.add_bos}, BoolKey{"add_space_prefix", &v.add_space_prefix},
        BoolKey{"remove_extra_whitespaces", &v.remove_extra_whitespaces}}) {
    if (!file.Has(prefix + k.key)) continue;
    ASSIGN_OR_RETURN(*k.value, file.GetBool(prefix + k.key));
  }
  return v;
}

}  // namespace evolora
