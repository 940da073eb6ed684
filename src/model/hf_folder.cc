#include "evolora/model/hf_folder.h"

#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "evolora/adapters/gguf.h"
#include "evolora/adapters/safetensors.h"
#include "evolora/core/status_macros.h"
#include "evolora/data/tokenizer_spec.h"
#include "evolora/model/llama_weights.h"
#include "gguf_source.h"
#include "hf_config.h"

namespace evolora {
namespace {

constexpr uint64_t kMaxFileBytes = 64 << 20;

// The files of a folder that belong to its tokenizer.
constexpr const char* kTokenizerFiles[] = {"tokenizer.json",      "tokenizer_config.json",
                                           "tokenizer.model",     "special_tokens_map.json",
                                           "added_tokens.json",   "vocab.json",
                                           "chat_template.jinja", "generation_config.json"};

Json RopeJson(const LlamaConfig& c) {
  if (c.rope_scaling == RopeScaling::kLinear) {
    return Json{{"rope_type", "linear"}, {"factor", c.rope_factor}};
  }
  return Json{{"rope_type", "llama3"},
              {"factor", c.rope_factor},
              {"low_freq_factor", c.rope_low_freq_factor},
              {"high_freq_factor", c.rope_high_freq_factor},
              {"original_max_position_embeddings", c.rope_original_positions}};
}

void AddWindows(const LlamaConfig& c, Json& json) {
  if (c.architecture == "llama") return;
  json["sliding_window"] = c.sliding_window > 0 ? Json(c.sliding_window) : Json();
  if (c.architecture == "mistral") return;
  json["use_sliding_window"] = c.sliding_window > 0;
  if (c.sliding_window == 0) return;
  Json types = Json::array();
  for (int64_t layer = 0; layer < c.num_layers; ++layer) {
    types.push_back(LayerWindow(c, layer) > 0 ? "sliding_attention" : "full_attention");
  }
  json["layer_types"] = types;
}

const char* ClassName(const std::string& architecture) {
  if (architecture == "mistral") return "MistralForCausalLM";
  if (architecture == "qwen2") return "Qwen2ForCausalLM";
  return architecture == "qwen3" ? "Qwen3ForCausalLM" : "LlamaForCausalLM";
}

Json ConfigJson(const LlamaConfig& c) {
  Json json{{"architectures", {ClassName(c.architecture)}},
            {"model_type", c.architecture},
            {"vocab_size", c.vocab_size},
            {"hidden_size", c.hidden_size},
            {"intermediate_size", c.intermediate_size},
            {"num_hidden_layers", c.num_layers},
            {"num_attention_heads", c.num_heads},
            {"num_key_value_heads", c.num_kv_heads},
            {"head_dim", c.head_dim},
            {"max_position_embeddings", c.max_positions},
            {"rms_norm_eps", c.rms_norm_eps},
            {"rope_theta", c.rope_theta},
            {"tie_word_embeddings", c.tied_head},
            {"hidden_act", "silu"},
            {"torch_dtype", "float32"}};
  if (c.rope_scaling != RopeScaling::kNone) json["rope_scaling"] = RopeJson(c);
  if (c.architecture == "llama" || c.architecture == "qwen3") {
    json["attention_bias"] = c.output_bias;
  }
  AddWindows(c, json);
  return json;
}

// Windows said in the one way in which ParseHfConfig says them.
LlamaConfig WithPlainWindows(LlamaConfig c) {
  std::vector<bool> uses;
  bool any = false, all = true;
  for (int64_t layer = 0; layer < c.num_layers; ++layer) {
    uses.push_back(LayerWindow(c, layer) > 0);
    any = any || uses.back();
    all = all && uses.back();
  }
  if (!any) c.sliding_window = 0;
  const bool by_layer = any && !(all && c.architecture == "mistral");
  c.layer_uses_window = by_layer ? uses : std::vector<bool>();
  return c;
}

absl::Status WriteFiles(FileSystem& fs, const std::string& dir, const LlamaWeights& weights,
                        const std::string& config, const HfFolderExtras& extras) {
  std::vector<TensorView> views;
  for (const auto& [name, tensor] : NamedTensors(weights)) {
    const auto* bytes = reinterpret_cast<const uint8_t*>(tensor.const_data_ptr<float>());
    views.push_back({.name = name,
                     .dtype = DType::kF32,
                     .shape = tensor.sizes().vec(),
                     .bytes = {bytes, tensor.nbytes()}});
  }
  RETURN_IF_ERROR(
      WriteSafetensors(fs, JoinPath(dir, "model.safetensors"), views, {{"format", "pt"}}));
  for (const auto& [name, contents] : extras.files) {
    RETURN_IF_ERROR(fs.WriteFileAtomic(JoinPath(dir, name), contents));
  }
  return fs.WriteFileAtomic(JoinPath(dir, "config.json"), config);
}

// Those of `names` that are in the folder.
absl::StatusOr<std::map<std::string, std::string>> ReadThose(const FileSystem& fs,
                                                             const std::string& dir,
                                                             absl::Span<const char* const> names) {
  std::map<std::string, std::string> files;
  for (const char* name : names) {
    if (!fs.Exists(JoinPath(dir, name))) continue;
    ASSIGN_OR_RETURN(files[name], fs.ReadFile(JoinPath(dir, name), kMaxFileBytes));
  }
  return files;
}

absl::StatusOr<std::map<std::string, std::string>> FilesAt(const FileSystem& fs,
                                                           const std::string& path) {
  const size_t slash = path.rfind('/');
  const std::string dir = slash == std::string::npos ? "." : path.substr(0, slash);
  std::map<std::string, std::string> files;
  if (absl::EndsWith(path, ".model")) {
    ASSIGN_OR_RETURN(files["tokenizer.model"], fs.ReadFile(path, kMaxFileBytes));
    return files;
  }
  if (!absl::EndsWith(path, ".json")) return ReadThose(fs, path, kTokenizerFiles);
  constexpr const char* kNeighbours[] = {"tokenizer_config.json", "chat_template.jinja"};
  ASSIGN_OR_RETURN(files, ReadThose(fs, dir, kNeighbours));
  ASSIGN_OR_RETURN(files["tokenizer.json"], fs.ReadFile(path, kMaxFileBytes));
  return files;
}

}  // namespace

absl::StatusOr<Json> HfConfigJson(const LlamaConfig& config) {
  if (!config.rope_freq_factors.empty()) {
    return absl::UnimplementedError(
        "config.json: factors of single RoPE frequencies (a GGUF file of Llama 3) have no place "
        "in it; use the Hugging Face folder of the model");
  }
  const Json json = ConfigJson(config);
  const absl::StatusOr<LlamaConfig> back = ParseHfConfig(CanonicalJson(json));
  if (back.ok() && *back == WithPlainWindows(config)) return json;
  return absl::UnimplementedError(absl::StrCat("config.json: no class of transformers is a ",
                                               config.architecture,
                                               " with these biases, norms and windows"));
}

absl::Status WriteHfFolder(FileSystem& fs, const std::string& dir, const LlamaWeights& weights,
                           const HfFolderExtras& extras) {
  ASSIGN_OR_RETURN(Json config, HfConfigJson(weights.config));
  if (extras.bos_id >= 0) config["bos_token_id"] = extras.bos_id;
  if (extras.eos_id >= 0) config["eos_token_id"] = extras.eos_id;
  if (fs.Exists(dir)) return absl::FailedPreconditionError(absl::StrCat(dir, ": exists"));
  const std::string temp = dir + ".tmp";
  RETURN_IF_ERROR(fs.RemoveTree(temp));
  RETURN_IF_ERROR(fs.CreateDirectories(temp));
  absl::Status status = WriteFiles(fs, temp, weights, config.dump(2) + "\n", extras);
  if (status.ok()) status = fs.Rename(temp, dir);
  // The first error is the one to report; a folder that cannot be removed is replaced next time.
  if (!status.ok()) fs.RemoveTree(temp).IgnoreError();
  return status;
}

absl::StatusOr<std::map<std::string, std::string>> TokenizerFiles(
    const FileSystem& fs, const std::string& model_path, const std::string& tokenizer_path) {
  if (!tokenizer_path.empty()) return FilesAt(fs, tokenizer_path);
  if (fs.Exists(JoinPath(model_path, "config.json"))) {
    return ReadThose(fs, model_path, kTokenizerFiles);
  }
  ASSIGN_OR_RETURN(const std::unique_ptr<MappedFile> file, fs.Map(model_path));
  const absl::Span<const uint8_t> bytes = file->bytes();
  const absl::string_view start(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (!absl::StartsWith(start, "GGUF")) return std::map<std::string, std::string>();
  ASSIGN_OR_RETURN(const GgufFile gguf, GgufFile::Open(fs, model_path));
  if (!gguf.Has("tokenizer.ggml.model")) return std::map<std::string, std::string>();
  ASSIGN_OR_RETURN(GgufVocabulary vocabulary, ReadGgufVocabulary(gguf));
  ASSIGN_OR_RETURN(const TokenizerSpec spec, TokenizerSpecFromGguf(std::move(vocabulary)));
  return HfTokenizerFiles(spec);
}

}  // namespace evolora
