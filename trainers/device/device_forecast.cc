// N tokens, M head rows, S rows of L places, P keys, D model width, F MLP width, H query heads, K
// key heads, E head width, V vocabulary.
#include "device/device_forecast.h"

#include <algorithm>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "device/device_limits.h"
#include "device/device_tokens.h"
#include "device/plain_attention.h"
#include "evolora/model/compact_weights.h"
#include "memory_forecast.h"

namespace evolora {
namespace {

constexpr int64_t kFp32 = 4;
constexpr int64_t kFlashRows = 128;        // of a block of flash attention's backward pass
constexpr int64_t kMultiprocessors = 132;  // of an H100; fewer need less

class DeviceSum {
 public:
  explicit DeviceSum(const DeviceRun& run)
      : run_(run),
        c_(run.config),
        s_(run.largest),
        bytes_(run.recipe.precision == TrainingPrecision::kFp32 ? kFp32 : 2) {
    for (int64_t i = 0; i < c_.num_layers; ++i) {
      layers_.push_back(ShapesOfLayer(c_, run.modules, i));
      if (lowest_ == c_.num_layers && IsTrained(i)) lowest_ = i;
    }
  }

  DeviceMemoryForecast Sum() const {
    const int64_t trained = run_.trainable_parameters * kFp32;
    DeviceMemoryForecast out{
        .base = Base(), .adapter = 2 * trained + AdapterCopies(), .moments = 2 * trained};
    if (run_.recipe.lora_plus_ratio != 1) out.moments += run_.trainable_parameters;
    int64_t mixed = 0;  // what attention leaves, taken anew in every pass
    for (int64_t i = FirstKept(); i < c_.num_layers; ++i) {
      out.activations += Kept(layers_[static_cast<size_t>(i)], RowsOn(i));
      mixed += Mixed(i);
    }
    const int64_t moment = mixed + Moment();
    out.activations += Scratch() + Logits() + Uploads() + moment;
    if (run_.graphs) out.graphs = moment;
    return out;
  }

 private:
  int64_t heads() const { return c_.num_heads * c_.head_dim; }
  int64_t keys() const { return c_.num_kv_heads * c_.head_dim; }

  bool TrainsBase() const { return run_.recipe.method == TrainingMethod::kFull; }
  bool IsTrained(int64_t layer) const {
    if (TrainsBase()) return true;
    const LayerShapes& g = layers_[static_cast<size_t>(layer)];
    if (g.qkv.rank + g.out.rank + g.gate_up.rank + g.down.rank > 0) return true;
    const std::string prefix = absl::StrCat("model.layers.", layer, ".");
    return std::any_of(run_.saved.begin(), run_.saved.end(), [&](const NamedShape& module) {
      return module.name == "model.embed_tokens" || absl::StartsWith(module.name, prefix);
    });
  }
  bool IsSaved(const char* path) const {
    return std::any_of(run_.saved.begin(), run_.saved.end(),
                       [&](const NamedShape& module) { return module.name == path; });
  }
  // Layers below share one place.
  int64_t FirstKept() const { return std::min(lowest_, c_.num_layers - 1); }
  int64_t RowsOn(int64_t layer) const {
    const bool alone = layer == FirstKept() && layer > 0;  // with the layers below
    return layer == c_.num_layers - 1 && !alone ? s_.predicting : s_.tokens;
  }

  int64_t Base() const {
    const WeightStorage storage = run_.recipe.base_weights;
    int64_t vectors = 0, matrices = 0, widest = 0;
    for (const NamedShape& entry : TensorShapes(c_)) {
      int64_t count = 1;
      for (const int64_t size : entry.shape) count *= size;
      if (entry.shape.size() == 1) vectors += count;
      if (entry.shape.size() == 2) matrices += count;
    }
    for (const LayerShapes& g : layers_) {
      for (const GroupShape* group : {&g.qkv, &g.out, &g.gate_up, &g.down}) {
        widest = std::max(widest, group->in * group->out);
      }
    }
    // A tied head that is no longer the embedding.
    const int64_t vocabulary = c_.vocab_size * c_.hidden_size;
    const bool parted = c_.tied_head && (IsSaved("lm_head") || IsSaved("model.embed_tokens"));
    const int64_t more = vectors * kFp32 + (parted ? vocabulary * bytes_ : 0);
    const bool dense =
        storage == WeightStorage::kFp32 || (storage == WeightStorage::kBf16 && bytes_ == 2);
    if (dense) return more + matrices * bytes_;
    widest = std::max(widest, std::min(vocabulary, DeviceLimits().widened_at_once));
    return more + CompactBytes(c_, storage) + widest * bytes_;
  }

  // A and B as products read them; norms and factors of DoRA.
  int64_t AdapterCopies() const {
    int64_t bytes = 0;
    for (const PlannedModule& module : run_.modules) {
      bytes += module.rank * (module.in_features + module.out_features) * bytes_;
    }
    for (const LayerShapes& g : layers_) {
      for (const GroupShape* group : {&g.qkv, &g.out, &g.gate_up, &g.down}) {
        if (run_.recipe.use_dora && group->rank > 0) bytes += 2 * group->out * kFp32;
      }
    }
    return bytes;
  }

  // DeviceLayerKept without what attention leaves.
  int64_t Kept(const LayerShapes& g, int64_t on) const {
    const int64_t n = s_.tokens, turned = c_.num_heads + c_.num_kv_heads;
    int64_t values =
        n * (c_.hidden_size + g.qkv.out + g.qkv.rank) +
        on * (g.out.rank + c_.hidden_size + g.gate_up.out + g.gate_up.rank + g.down.rank);
    if (c_.qk_norm) values += n * turned * c_.head_dim;
    if (run_.recipe.use_dora) {
      if (g.qkv.rank > 0) values += n * g.qkv.out;
      for (const GroupShape* group : {&g.out, &g.gate_up, &g.down}) {
        if (group->rank > 0) values += on * group->out;
      }
    }
    return values * bytes_ + (n + on + (c_.qk_norm ? n * turned : 0)) * kFp32;
  }

  int64_t Mixed(int64_t layer) const {
    const bool last = layer == c_.num_layers - 1;
    int64_t bytes = s_.tokens * heads() * bytes_;
    if (run_.packed) bytes += s_.tokens * c_.num_heads * kFp32;
    return bytes + (last ? s_.predicting * heads() * bytes_ : 0);
  }

  // DeviceScratch.
  int64_t Scratch() const {
    const int64_t n = std::max(s_.tokens, s_.predicting);
    int64_t rank = 0;
    for (const LayerShapes& g : layers_) {
      rank = std::max({rank, g.qkv.rank, g.out.rank, g.gate_up.rank, g.down.rank});
    }
    const int64_t on = c_.num_layers > 1 ? n : s_.predicting;
    int64_t values = n * (c_.hidden_size + heads() + heads() + 2 * keys() + rank) +
                     2 * on * c_.intermediate_size;
    if (run_.recipe.lora_dropout > 0) {
      values += n * std::max({c_.intermediate_size, heads(), c_.hidden_size});
    }
    return values * bytes_;
  }

  // Beside what is kept, at the fullest moment: attention's gradient in a layer.
  int64_t Moment() const {
    const int64_t n = s_.tokens, m = s_.predicting;
    int64_t bytes = (2 * n + 5 * m) * c_.hidden_size * bytes_ + n * heads() * bytes_;
    bytes += run_.packed ? PackedMoment() : PlainMoment();
    if (TrainsBase() || !run_.saved.empty()) bytes += 2 * n * c_.hidden_size * kFp32;
    return bytes + WeightGradientMoment();
  }

  // The gradient of a matrix behind a norm, before the norm's weight is multiplied in.
  int64_t WeightGradientMoment() const {
    const int64_t widest = std::max(heads(), c_.intermediate_size);
    return TrainsBase() ? widest * c_.hidden_size * kFp32 : 0;
  }

  // Flash attention adds up the gradients of queries in fp32, those of keys by query head. To add
  // in one order, it keeps the queries' once for each share of the multiprocessors that works on a
  // row's head; heads are rounded up to the widths it is compiled for.
  int64_t PackedMoment() const {
    const int64_t p = s_.keys > 0 ? s_.keys : s_.tokens;
    int64_t values = s_.tokens * heads() + 2 * p * keys() + (s_.keys > 0 ? 2 * p * keys() : 0);
    if (c_.num_kv_heads < c_.num_heads) values += 2 * p * heads();
    const int64_t tasks = s_.rows * c_.num_heads;
    const int64_t shares = (kMultiprocessors + tasks - 1) / tasks;
    const int64_t unit = c_.head_dim <= 128 ? 32 : 64;
    const int64_t width = (c_.head_dim + unit - 1) / unit * unit;
    return values * bytes_ +
           (s_.tokens + kFlashRows * s_.rows) * c_.num_heads * (shares * width + 1) * kFp32;
  }

  int64_t PlainMoment() const {
    const int64_t length = s_.longest_row, all = s_.rows * length;
    const int64_t rows = std::min(s_.rows, PlainAttention::RowsAtOnce(c_, length));
    const int64_t places = rows * length, both = heads() + 2 * keys();
    const int64_t probabilities = rows * c_.num_heads * length * length;
    return (places * both + all * 2 * keys() + s_.tokens * heads()) * bytes_ +
           (3 * places * both + 3 * probabilities + 3 * length * length) * kFp32;
  }

  int64_t Logits() const {
    const int64_t at_once = std::max<int64_t>(16, DeviceLimits().logits_per_chunk / c_.vocab_size);
    const int64_t logits = std::min(s_.predicting, at_once) * c_.vocab_size * bytes_;
    const ObjectiveSettings& objective = run_.recipe.objective;
    const bool teacher = objective.kind == ObjectiveKind::kDistill && objective.distill_top_k == 0;
    const bool trains_head = TrainsBase() || IsSaved("lm_head");
    const int64_t head_gradient = trains_head ? c_.vocab_size * c_.hidden_size * bytes_ : 0;
    return (teacher ? 2 : 1) * logits + head_gradient +
           (teacher ? s_.predicting * c_.hidden_size * (kFp32 + bytes_) : 0);
  }

  int64_t Uploads() const {
    const TokenUpload::Parts parts = {.places = !run_.packed,
                                      .dropout = run_.recipe.lora_dropout > 0};
    return TokenUpload::Bytes(s_, parts) + s_.longest_row * c_.head_dim * kFp32;
  }

  const DeviceRun& run_;
  const LlamaConfig& c_;
  const BatchShape& s_;
  const int64_t bytes_;  // of an activation
  std::vector<LayerShapes> layers_;
  int64_t lowest_ = run_.config.num_layers;
};

}  // namespace

DeviceMemoryForecast ForecastDeviceMemory(const DeviceRun& run) { return DeviceSum(run).Sum(); }

}  // namespace evolora
