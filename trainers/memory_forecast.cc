// N tokens, M tokens that predict, L positions of a row, D model width, F MLP width, H query heads,
// K key heads, E head width, R ranks of a group.
#include "memory_forecast.h"

#include <algorithm>
#include <string>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "bf16_base.h"
#include "fast_head.h"

namespace evolora {
namespace {

constexpr int64_t kPanel = 32;  // columns of a panel
constexpr int64_t kFloat = sizeof(float);

int64_t RoundUp(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

int64_t PanelFloats(const GroupShape& group) {
  return (RoundUp(group.out, kPanel) + group.in) * group.rank +
         RoundUp(group.rank, kPanel) * group.in;
}

int64_t RankOf(const LayerShapes& g) {
  return g.qkv.rank + g.out.rank + g.gate_up.rank + g.down.rank;
}

// LayerKept of one layer: `n` tokens, of which `on` go on after attention.
int64_t KeptFloats(const LlamaConfig& c, const LayerShapes& g, int64_t n, int64_t on) {
  const int64_t turned = c.num_heads + c.num_kv_heads;
  int64_t floats = n * (c.hidden_size + 1 + g.qkv.out + g.qkv.rank + 2 * c.num_heads);
  if (c.qk_norm) floats += n * turned * (c.head_dim + 1);
  floats += on * (g.out.in + g.out.rank);
  floats += on * (c.hidden_size + 1 + g.gate_up.out + g.gate_up.rank + g.down.rank);
  return floats;
}

// What the groups of one layer keep for the gradients of magnitudes.
int64_t OutputFloats(const LayerShapes& g, int64_t n, int64_t on) {
  int64_t floats = g.qkv.rank > 0 ? n * g.qkv.out : 0;
  for (const GroupShape* group : {&g.out, &g.gate_up, &g.down}) {
    if (group->rank > 0) floats += on * group->out;
  }
  return floats;
}

// LayerScratch without attention.
int64_t ScratchFloats(const LlamaConfig& c, const LayerShapes& widest, int64_t n) {
  const int64_t rank =
      std::max({widest.qkv.rank, widest.out.rank, widest.gate_up.rank, widest.down.rank});
  const int64_t wide = std::max({widest.gate_up.out, widest.qkv.out, c.intermediate_size});
  const int64_t heads = c.num_heads * c.head_dim;
  return n * (c.hidden_size + 2 * c.intermediate_size + 2 * heads + c.num_heads + widest.qkv.out +
              rank) +
         rank * wide;
}

int64_t AttentionFloats(const LlamaConfig& c, int64_t n, int64_t row, int64_t num_threads) {
  constexpr int64_t kQueries = 48;
  const int64_t ld = RoundUp(c.head_dim, 16), length = RoundUp(row, kPanel);
  const int64_t per_thread =
      2 * length * ld + 4 * c.head_dim * length + 2 * kQueries * length + length;
  return 2 * n * c.num_heads * c.head_dim + num_threads * per_thread;
}

int64_t HeadRows(const LlamaConfig& c, Factors factors, int64_t predicting) {
  const int64_t at_once = FastHead::RowsPerChunk(FastHead::LogitsPerChunk(factors), c.vocab_size);
  return std::min(at_once, predicting);
}

// The widest left side of a sum as its factors are multiplied: a gradient of the MLP, of q, k and
// v, or of logits.
int64_t LeftBytes(Factors factors, const LlamaConfig& c, const LayerShapes& widest, int64_t n,
                  int64_t m) {
  return std::max({LeftSideBytes(factors, n, widest.gate_up.out),
                   LeftSideBytes(factors, n, widest.qkv.out),
                   LeftSideBytes(factors, HeadRows(c, factors, m), c.vocab_size)});
}

}  // namespace

LayerShapes ShapesOfLayer(const LlamaConfig& c, const std::vector<PlannedModule>& modules,
                          int64_t layer) {
  const int64_t heads = c.num_heads * c.head_dim, kv = c.num_kv_heads * c.head_dim;
  LayerShapes groups{.qkv = {c.hidden_size, heads + 2 * kv},
                     .out = {heads, c.hidden_size},
                     .gate_up = {c.hidden_size, 2 * c.intermediate_size},
                     .down = {c.intermediate_size, c.hidden_size}};
  const std::string prefix = absl::StrCat("model.layers.", layer, ".");
  for (const PlannedModule& module : modules) {
    if (!absl::StartsWith(module.path, prefix)) continue;
    const std::string leaf = module.path.substr(module.path.rfind('.') + 1);
    GroupShape& group = leaf == "o_proj"                           ? groups.out
                        : leaf == "down_proj"                      ? groups.down
                        : leaf == "gate_proj" || leaf == "up_proj" ? groups.gate_up
                                                                   : groups.qkv;
    group.rank += module.rank;
  }
  return groups;
}

int64_t PackedBytes(const LlamaConfig& c, const std::vector<PlannedModule>& modules) {
  int64_t floats = 0;
  for (int64_t layer = 0; layer < c.num_layers; ++layer) {
    const LayerShapes g = ShapesOfLayer(c, modules, layer);
    for (const GroupShape* group : {&g.qkv, &g.out, &g.gate_up, &g.down}) {
      floats += PanelFloats(*group);
    }
  }
  return floats * kFloat;
}

int64_t ArenaBytes(const LlamaConfig& c, const LoraRecipe& recipe,
                   const std::vector<PlannedModule>& modules, const LargestMicroBatch& largest,
                   int64_t num_threads) {
  const int64_t n = largest.tokens, m = largest.predicting;
  const Factors factors = FactorsOf(recipe);
  int64_t floats = n * c.hidden_size + m * (3 * c.hidden_size + 1) +
                   HeadRows(c, factors, m) * c.vocab_size +
                   AttentionFloats(c, n, largest.row_tokens, num_threads);
  LayerShapes widest;
  // Something is trained in this layer or below it: activations are kept.
  bool any_below = recipe.method == TrainingMethod::kFull;
  for (int64_t layer = 0; layer < c.num_layers; ++layer) {
    const LayerShapes g = ShapesOfLayer(c, modules, layer);
    any_below = any_below || RankOf(g) > 0;
    const bool last = layer == c.num_layers - 1;
    const int64_t on = last && c.num_layers > 1 ? m : n;
    if (any_below || last) floats += KeptFloats(c, g, n, on);
    if (recipe.use_dora) floats += OutputFloats(g, n, on);
    if (layer == 0 || RankOf(g) > RankOf(widest)) widest = g;
  }
  if (recipe.lora_dropout > 0) {  // the input with its features dropped
    floats += n * std::max(c.intermediate_size, c.num_heads * c.head_dim);
  }
  return (floats + ScratchFloats(c, widest, n)) * kFloat + LeftBytes(factors, c, widest, n, m);
}

}  // namespace evolora
