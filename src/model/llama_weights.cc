#include "evolora/model/llama_weights.h"

#include <array>
#include <cstdint>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

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

}  // namespace

at::Tensor FindLinear(const LlamaWeights& weights, const std::string& module_path) {
  const ParsedPath parsed = ParsePath(module_path);
  if (parsed.layer < 0 || parsed.layer >= static_cast<int64_t>(weights.layers.size())) return {};
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

}  // namespace evolora
