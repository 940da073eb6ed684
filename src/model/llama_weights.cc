#include "evolora/model/llama_weights.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <memory>

#include "ATen/Functions.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "evolora/core/float_memory.h"
#include "evolora/model/compact_weights.h"

namespace evolora {
namespace {

struct LinearKind {
  const char* suffix;
  at::Tensor LlamaLayer::*weight;
};

constexpr std::array<LinearKind, 7> kLinears = {{{"self_attn.q_proj", &LlamaLayer::q},
                                                 {"self_attn.k_proj", &LlamaLayer::k},
                                                 {"self_attn.v_proj", &LlamaLayer::v},
                                                 {"self_attn.o_proj", &LlamaLayer::o},
                                                 {"mlp.gate_proj", &LlamaLayer::gate},
                                                 {"mlp.up_proj", &LlamaLayer::up},
                                                 {"mlp.down_proj", &LlamaLayer::down}}};

struct ParsedPath {
  int64_t layer = -1;
  size_t kind = 0;  // index into kLinears
};

// layer stays -1 when `path` is not model.layers.<number without leading zero>.<known suffix>.
ParsedPath ParsePath(absl::string_view path) {
  ParsedPath parsed;
  if (!absl::ConsumePrefix(&path, "model.layers.")) return parsed;
  const size_t dot = path.find('.');
  int64_t layer = 0;
  if (dot == absl::string_view::npos || !absl::SimpleAtoi(path.substr(0, dot), &layer)) {
    return parsed;
  }
  if (layer < 0 || absl::StrCat(layer) != path.substr(0, dot)) return parsed;
  for (size_t kind = 0; kind < kLinears.size(); ++kind) {
    if (path.substr(dot + 1) == kLinears[kind].suffix) return {layer, kind};
  }
  return parsed;
}

// Calls visit(name, shape, tensor) for every tensor the config has. `Weights` is LlamaWeights or
// const LlamaWeights.
template <typename Weights, typename Visit>
void VisitTensors(const LlamaConfig& c, Weights& w, const Visit& visit) {
  const int64_t q = c.num_heads * c.head_dim;
  const int64_t kv = c.num_kv_heads * c.head_dim;
  visit("model.embed_tokens.weight", {c.vocab_size, c.hidden_size}, w.embedding);
  visit("model.norm.weight", {c.hidden_size}, w.final_norm);
  if (!c.tied_head) visit("lm_head.weight", {c.vocab_size, c.hidden_size}, w.head);
  for (int64_t i = 0; i < c.num_layers; ++i) {
    auto& layer = w.layers[static_cast<size_t>(i)];
    const std::string prefix = absl::StrCat("model.layers.", i, ".");
    const std::string attention = prefix + "self_attn.";
    visit(prefix + "input_layernorm.weight", {c.hidden_size}, layer.input_norm);
    visit(prefix + "post_attention_layernorm.weight", {c.hidden_size}, layer.post_norm);
    for (const LinearKind& kind : kLinears) {
      const auto [out, in] = LinearShape(c, prefix + kind.suffix);
      visit(absl::StrCat(prefix, kind.suffix, ".weight"), {out, in}, layer.*kind.weight);
    }
    if (c.qkv_bias) {
      visit(attention + "q_proj.bias", {q}, layer.q_bias);
      visit(attention + "k_proj.bias", {kv}, layer.k_bias);
      visit(attention + "v_proj.bias", {kv}, layer.v_bias);
    }
    if (c.output_bias) visit(attention + "o_proj.bias", {c.hidden_size}, layer.o_bias);
    if (c.qk_norm) {
      visit(attention + "q_norm.weight", {c.head_dim}, layer.q_norm);
      visit(attention + "k_norm.weight", {c.head_dim}, layer.k_norm);
    }
  }
}

// Floats of a tensor, up to whole cache lines.
int64_t RoundedCount(const std::vector<int64_t>& shape) {
  int64_t count = 1;
  for (const int64_t size : shape) count *= size;
  return (count + 15) / 16 * 16;
}

template <typename Named>
std::vector<Named> SortedByName(std::vector<Named> list) {
  std::sort(list.begin(), list.end(),
            [](const Named& a, const Named& b) { return a.name < b.name; });
  return list;
}

}  // namespace

std::vector<NamedShape> TensorShapes(const LlamaConfig& config) {
  LlamaWeights blank;
  blank.layers.resize(static_cast<size_t>(config.num_layers));
  std::vector<NamedShape> shapes;
  VisitTensors(config, blank,
               [&](const std::string& name, const std::vector<int64_t>& shape, const at::Tensor&) {
                 shapes.push_back({name, shape});
               });
  return SortedByName(std::move(shapes));
}

std::vector<NamedTensor> NamedTensors(const LlamaWeights& weights) {
  std::vector<NamedTensor> tensors;
  VisitTensors(weights.config, weights,
               [&](const std::string& name, const std::vector<int64_t>&, const at::Tensor& tensor) {
                 tensors.push_back({name, tensor});
               });
  return SortedByName(std::move(tensors));
}

BlankWeights AllocateWeights(const LlamaConfig& config, WeightParts parts) {
  BlankWeights blank;
  blank.weights.config = config;
  blank.weights.layers.resize(static_cast<size_t>(config.num_layers));
  int64_t total = 0;
  const auto wanted = [parts](const std::vector<int64_t>& shape) {
    return parts == WeightParts::kAll || shape.size() == 1;
  };
  for (const NamedShape& entry : TensorShapes(config)) {
    if (wanted(entry.shape)) total += RoundedCount(entry.shape);
  }
  const std::shared_ptr<float[]> block(AllocateFloats(total));
  float* next = block.get();
  VisitTensors(config, blank.weights,
               [&](const std::string&, const std::vector<int64_t>& shape, at::Tensor& tensor) {
                 if (!wanted(shape)) return;
                 tensor = at::from_blob(
                     next, shape, [block](void*) {}, at::kFloat);
                 next += RoundedCount(shape);
               });
  if (config.tied_head) blank.weights.head = blank.weights.embedding;
  blank.tensors = NamedTensors(blank.weights);
  std::erase_if(blank.tensors, [](const NamedTensor& named) { return !named.tensor.defined(); });
  return blank;
}

std::vector<NamedShape> ReplaceableModules(const LlamaConfig& config) {
  std::vector<NamedShape> modules;
  LlamaConfig untied = config;
  untied.tied_head = false;
  for (NamedShape& entry : TensorShapes(untied)) {
    absl::string_view path = entry.name;
    if (!absl::ConsumeSuffix(&path, ".weight") || ParsePath(path).layer >= 0) continue;
    modules.push_back({std::string(path), std::move(entry.shape)});
  }
  return SortedByName(std::move(modules));
}

at::Tensor FindReplaceable(const LlamaWeights& weights, const std::string& module_path) {
  const CompactWeights* compact = weights.compact.get();
  if (module_path == "lm_head") {
    return weights.head.defined() || compact == nullptr
               ? weights.head
               : compact->head.Widen(0, compact->head.out_features());
  }
  if (module_path == "model.embed_tokens" && compact != nullptr && !weights.embedding.defined()) {
    return compact->embedding.Widen(0, compact->embedding.out_features());
  }
  if (ParsePath(module_path).layer >= 0) return {};
  at::Tensor found;
  VisitTensors(weights.config, weights,
               [&](const std::string& name, const std::vector<int64_t>&, const at::Tensor& tensor) {
                 if (name == module_path + ".weight") found = tensor;
               });
  return found;
}

LlamaWeights WithModules(const LlamaWeights& weights,
                         const std::map<std::string, at::Tensor>& by_module_path) {
  LlamaWeights changed = weights;
  for (const auto& [path, weight] : by_module_path) {
    if (path == "lm_head") {
      changed.head = weight;
      continue;
    }
    VisitTensors(changed.config, changed,
                 [&](const std::string& name, const std::vector<int64_t>&, at::Tensor& tensor) {
                   if (name == path + ".weight") tensor = weight;
                 });
  }
  return changed;
}

LlamaWeights WithTensors(const LlamaConfig& config,
                         const std::map<std::string, at::Tensor>& by_name) {
  LlamaWeights made{.config = config};
  made.layers.resize(static_cast<size_t>(config.num_layers));
  VisitTensors(config, made,
               [&](const std::string& name, const std::vector<int64_t>&, at::Tensor& tensor) {
                 tensor = by_name.at(name);
               });
  if (config.tied_head) made.head = made.embedding;
  return made;
}

LlamaWeights CastCopy(const LlamaWeights& weights, at::ScalarType dtype) {
  LlamaWeights cast = weights;
  VisitTensors(cast.config, cast,
               [&](const std::string&, const std::vector<int64_t>&, at::Tensor& tensor) {
                 tensor = tensor.to(dtype);
               });
  if (cast.config.tied_head) cast.head = cast.embedding;
  return cast;
}

at::Tensor FindLinear(const LlamaWeights& weights, const std::string& module_path) {
  const ParsedPath parsed = ParsePath(module_path);
  if (parsed.layer < 0 || parsed.layer >= static_cast<int64_t>(weights.layers.size())) return {};
  if (weights.compact != nullptr) {
    return WidenCompact(weights.config, module_path + ".weight", *weights.compact);
  }
  return weights.layers[static_cast<size_t>(parsed.layer)].*kLinears[parsed.kind].weight;
}

std::pair<int64_t, int64_t> LinearShape(const LlamaConfig& c, const std::string& module_path) {
  const ParsedPath parsed = ParsePath(module_path);
  if (parsed.layer < 0 || parsed.layer >= c.num_layers) return {0, 0};
  const int64_t q = c.num_heads * c.head_dim;
  const int64_t kv = c.num_kv_heads * c.head_dim;
  switch (parsed.kind) {
    case 0:
      return {q, c.hidden_size};
    case 1:
    case 2:
      return {kv, c.hidden_size};
    case 3:
      return {c.hidden_size, q};
    case 6:
      return {c.hidden_size, c.intermediate_size};
    default:
      return {c.intermediate_size, c.hidden_size};
  }
}

std::vector<std::string> LinearModulePaths(const LlamaConfig& config) {
  std::vector<std::string> paths;
  for (int64_t layer = 0; layer < config.num_layers; ++layer) {
    for (const LinearKind& kind : kLinears) {
      paths.push_back(absl::StrCat("model.layers.", layer, ".", kind.suffix));
    }
  }
  return paths;
}

std::vector<float> JoinedQkvBias(const LlamaLayer& layer) {
  std::vector<float> joined;
  for (const at::Tensor* bias : {&layer.q_bias, &layer.k_bias, &layer.v_bias}) {
    if (!bias->defined()) return {};
    const float* data = bias->const_data_ptr<float>();
    joined.insert(joined.end(), data, data + bias->numel());
  }
  return joined;
}

}  // namespace evolora
