// N tokens, M tokens that go on after attention, D model width, F MLP width, H query heads, K
// key heads, E head width.
#include "fast_layer.h"

#include <algorithm>
#include <string>
#include <utility>

#include "ATen/Parallel.h"
#include "absl/strings/str_cat.h"
#include "evolora/model/compact_weights.h"
#include "evolora/model/kernels.h"
#include "evolora/model/share_out.h"
#include "norm_gradient.h"
#include "weight_gradient.h"

namespace evolora {
namespace {

// Runs body(token) on all threads.
template <typename Body>
void ForTokens(int64_t count, const Body& body) {
  ShareOut(count, 8, [&](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m) body(m);
  });
}

// The linear layers of each stage, in the order in which they stand side by side.
constexpr const char* kQkvNames[] = {"self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"};
constexpr const char* kOutNames[] = {"self_attn.o_proj"};
constexpr const char* kGateUpNames[] = {"mlp.gate_proj", "mlp.up_proj"};
constexpr const char* kDownNames[] = {"mlp.down_proj"};
constexpr absl::Span<const char* const> kStageNames[] = {kQkvNames, kOutNames, kGateUpNames,
                                                         kDownNames};

// Moves the chosen rows to the front; `rows` ascending.
void Gather(const std::vector<int64_t>& rows, int64_t width, const float* from, float* to) {
  for (size_t i = 0; i < rows.size(); ++i) {
    std::copy_n(from + rows[i] * width, width, to + static_cast<int64_t>(i) * width);
  }
}

// Back to their places, zeros elsewhere, in place.
void Scatter(const std::vector<int64_t>& rows, int64_t num_all, int64_t width, float* x) {
  auto next = static_cast<int64_t>(rows.size()) - 1;
  for (int64_t m = num_all - 1; m >= 0; --m) {
    float* row = x + m * width;
    if (next >= 0 && rows[static_cast<size_t>(next)] == m) {
      if (m != next) std::copy_n(x + next * width, width, row);
      --next;
    } else {
      std::fill_n(row, width, 0.0f);
    }
  }
}

}  // namespace

FastLayer::FastLayer(const LlamaWeights& weights, int64_t index, Factors factors)
    : config_(weights.config),
      weights_(weights.layers[static_cast<size_t>(index)]),
      index_(index),
      qkv_bias_(JoinedQkvBias(weights_)) {
  if (weights.compact != nullptr) {
    const CompactLayer& compact = weights.compact->layers[static_cast<size_t>(index)];
    const auto add = [&](Stage stage, const CompactMatrix& matrix) {
      std::vector<int64_t> outs;
      for (const char* name : kStageNames[static_cast<size_t>(stage)]) {
        outs.push_back(LinearShape(config_, absl::StrCat("model.layers.0.", name)).first);
      }
      groups_.emplace_back(std::move(outs), matrix, factors);
    };
    add(Stage::kQkv, compact.qkv);
    add(Stage::kOut, compact.o);
    add(Stage::kGateUp, compact.gate_up);
    add(Stage::kDown, compact.down);
    return;
  }
  qkv_ = {weights_.q, weights_.k, weights_.v};
  out_ = {weights_.o};
  gate_up_ = {weights_.gate, weights_.up};
  down_ = {weights_.down};
  groups_.emplace_back(qkv_, factors);
  groups_.emplace_back(out_, factors);
  groups_.emplace_back(gate_up_, factors);
  groups_.emplace_back(down_, factors);
}

void FastLayer::Add(int64_t slot, const LoraTensors& lora, const AdapterDropout* dropout) {
  for (size_t stage = 0; stage < groups_.size(); ++stage) {
    std::vector<AdaptedGroup::PartAdapter> adapters;
    for (const char* name : kStageNames[stage]) {
      const std::string path = absl::StrCat("model.layers.", index_, ".", name);
      const auto found = lora.modules.find(path);
      adapters.push_back({found == lora.modules.end() ? nullptr : &found->second,
                          dropout != nullptr ? dropout->ModuleKey(path) : 0});
    }
    groups_[stage].Add(slot, adapters, dropout);
  }
}

void FastLayer::Remove(int64_t slot) {
  for (AdaptedGroup& group : groups_) group.Remove(slot);
}

bool FastLayer::trains_head_norms() const {
  return config_.qk_norm && (weights_.q_norm.requires_grad() || weights_.k_norm.requires_grad());
}

TrainedParts FastLayer::trained_parts(int64_t slot) const {
  TrainedParts parts = {.input_norm = weights_.input_norm.requires_grad(),
                        .head_norms = trains_head_norms(),
                        .post_norm = weights_.post_norm.requires_grad()};
  for (size_t i = 0; i < groups_.size(); ++i) parts.stages[i] = groups_[i].adapted(slot);
  return parts;
}

void FastLayer::PackAdapter(int64_t slot) {
  for (AdaptedGroup& group : groups_) group.PackAdapter(slot);
  if (trains_linear()) qkv_bias_ = JoinedQkvBias(weights_);
}

void FastLayer::Norm(const at::Tensor& weight, const float* x, int64_t rows, float* unit,
                     float* factors, float* y) const {
  const int64_t width = config_.hidden_size;
  const float* scale = weight.const_data_ptr<float>();
  const auto eps = static_cast<float>(config_.rms_norm_eps);
  ForTokens(rows, [&](int64_t m) {
    factors[m] =
        Kernels().rms_norm_keep(x + m * width, scale, width, eps, unit + m * width, y + m * width);
  });
}

void FastLayer::NormBackward(const at::Tensor& weight, const float* dy, const float* unit,
                             const float* factors, int64_t rows, float* dx) const {
  const int64_t width = config_.hidden_size;
  const float* scale = weight.const_data_ptr<float>();
  if (float* gradient = GradientOf(weight)) AddNormGradient(dy, unit, rows, width, gradient);
  ForTokens(rows, [&](int64_t m) {
    Kernels().rms_norm_backward(dy + m * width, scale, unit + m * width, factors[m], width,
                                dx + m * width);
  });
}

// Biases, norms of q and k, RoPE.
void FastLayer::FinishQkv(const LayerTokens& tokens, LayerKept& kept) const {
  const LlamaConfig& c = config_;
  const int64_t width = c.head_dim;
  const int64_t turned = c.num_heads + c.num_kv_heads;
  const int64_t stride = (turned + c.num_kv_heads) * width;
  const auto eps = static_cast<float>(c.rms_norm_eps);
  const int64_t rows = tokens.num_all();
  float* unit = c.qk_norm ? kept.qk_unit.Reserve(rows * turned * width) : nullptr;
  float* factor = c.qk_norm ? kept.qk_factor.Reserve(rows * turned) : nullptr;
  ForTokens(rows, [&](int64_t m) {
    float* row = kept.qkv.data() + m * stride;
    const int64_t offset = tokens.layout->positions[static_cast<size_t>(m)] * (width / 2);
    Kernels().add(qkv_bias_.data(), static_cast<int64_t>(qkv_bias_.size()), row);
    for (int64_t h = 0; c.qk_norm && h < turned; ++h) {
      float* head = row + h * width;
      const at::Tensor& scale = h < c.num_heads ? weights_.q_norm : weights_.k_norm;
      factor[m * turned + h] = Kernels().rms_norm_keep(head, scale.const_data_ptr<float>(), width,
                                                       eps, unit + (m * turned + h) * width, head);
    }
    Kernels().rotate(row, turned, tokens.cos + offset, tokens.sin + offset, width / 2);
  });
}

void FastLayer::FinishQkvBackward(const LayerTokens& tokens, const LayerKept& kept,
                                  float* d_qkv) const {
  const LlamaConfig& c = config_;
  const int64_t width = c.head_dim;
  const int64_t turned = c.num_heads + c.num_kv_heads;
  const int64_t stride = (turned + c.num_kv_heads) * width;
  float* d_norms[] = {c.qk_norm ? GradientOf(weights_.q_norm) : nullptr,
                      c.qk_norm ? GradientOf(weights_.k_norm) : nullptr};
  // In one piece when all tokens add to the same sums.
  const int64_t grain = trains_head_norms() ? tokens.num_all() : 8;
  at::parallel_for(0, tokens.num_all(), grain, [&](int64_t begin, int64_t end) {
    std::vector<float> dy(static_cast<size_t>(width));
    for (int64_t m = begin; m < end; ++m) {
      const int64_t offset = tokens.layout->positions[static_cast<size_t>(m)] * (width / 2);
      float* row = d_qkv + m * stride;
      Kernels().rotate(row, turned, tokens.cos + offset, tokens.minus_sin + offset, width / 2);
      for (int64_t h = 0; c.qk_norm && h < turned; ++h) {
        float* head = row + h * width;
        const at::Tensor& scale = h < c.num_heads ? weights_.q_norm : weights_.k_norm;
        std::copy_n(head, width, dy.data());
        std::fill_n(head, width, 0.0f);
        const float* unit = kept.qk_unit.data() + (m * turned + h) * width;
        if (float* sums = d_norms[h < c.num_heads ? 0 : 1]) {
          for (int64_t e = 0; e < width; ++e) sums[e] += dy[static_cast<size_t>(e)] * unit[e];
        }
        Kernels().rms_norm_backward(dy.data(), scale.const_data_ptr<float>(), unit,
                                    kept.qk_factor.data()[m * turned + h], width, head);
      }
    }
  });
}

void FastLayer::AttentionForward(const LayerTokens& tokens, float* x, LayerKept& kept,
                                 LayerScratch& scratch) const {
  const int64_t all = tokens.num_all(), on = tokens.num_on();
  const int64_t width = config_.hidden_size, mixed_width = group(Stage::kOut).in_features();
  const AdaptedGroup& qkv = group(Stage::kQkv);
  float* norm = scratch.norm.Reserve(all * width);
  Norm(weights_.input_norm, x, all, kept.unit1.Reserve(all * width), kept.factor1.Reserve(all),
       norm);
  qkv.Forward(norm, all, kept.qkv.Reserve(all * qkv.out_features()), GemmStore::kSet,
              kept.qkv_group, scratch.gradient);
  FinishQkv(tokens, kept);
  float* mixed = kept.mixed.Reserve(on * mixed_width);
  if (tokens.only_predicting) {
    float* all_mixed = scratch.mixed.Reserve(all * mixed_width);
    scratch.attention.Forward(index_, *tokens.layout, kept.qkv.data(), kept.attention, all_mixed);
    Gather(tokens.layout->predicting, mixed_width, all_mixed, mixed);
    Gather(tokens.layout->predicting, width, x, x);
  } else {
    scratch.attention.Forward(index_, *tokens.layout, kept.qkv.data(), kept.attention, mixed);
  }
  group(Stage::kOut).Forward(mixed, on, x, GemmStore::kAdd, kept.out_group, scratch.gradient);
  if (!weights_.o_bias.defined()) return;
  const float* bias = weights_.o_bias.const_data_ptr<float>();
  ForTokens(on, [&](int64_t m) { Kernels().add(bias, width, x + m * width); });
}

void FastLayer::MlpForward(const LayerTokens& tokens, float* x, LayerKept& kept,
                           LayerScratch& scratch) const {
  const int64_t rows = tokens.num_on();
  const int64_t width = config_.hidden_size, mlp_width = config_.intermediate_size;
  float* norm = scratch.norm.Reserve(rows * width);
  Norm(weights_.post_norm, x, rows, kept.unit2.Reserve(rows * width), kept.factor2.Reserve(rows),
       norm);
  float* wide = kept.gate_up.Reserve(rows * 2 * mlp_width);
  group(Stage::kGateUp)
      .Forward(norm, rows, wide, GemmStore::kSet, kept.gate_up_group, scratch.gradient);
  float* act = scratch.act.Reserve(rows * mlp_width);
  ForTokens(rows, [&](int64_t m) {
    const float* gate = wide + m * 2 * mlp_width;
    Kernels().silu_mul(gate, gate + mlp_width, mlp_width, act + m * mlp_width);
  });
  group(Stage::kDown).Forward(act, rows, x, GemmStore::kAdd, kept.down_group, scratch.gradient);
}

void FastLayer::Forward(const LayerTokens& tokens, float* x, LayerKept& kept,
                        LayerScratch& scratch) const {
  kept.qkv_group.runs = tokens.runs;
  for (AdaptedGroup::Kept* k : {&kept.out_group, &kept.gate_up_group, &kept.down_group}) {
    k->runs = tokens.runs_on;
  }
  AttentionForward(tokens, x, kept, scratch);
  MlpForward(tokens, x, kept, scratch);
}

// Of gate and up as a whole; their input is computed again, into scratch.norm.
void FastLayer::AddGateUpGradients(const float* d_wide, int64_t rows, const LayerKept& kept,
                                   LayerScratch& scratch) const {
  if (!trains_linear()) return;
  float* x = scratch.norm.Reserve(rows * config_.hidden_size);
  ScaleUnit(weights_.post_norm, kept.unit2.data(), rows, x);
  AddWeightGradients(gate_up_, d_wide, 2 * config_.intermediate_size, x, rows);
}

void FastLayer::AddQkvGradients(const float* d_qkv, int64_t rows, const LayerKept& kept,
                                LayerScratch& scratch) const {
  if (!trains_linear()) return;
  const int64_t ld = group(Stage::kQkv).out_features();
  float* x = scratch.norm.Reserve(rows * config_.hidden_size);
  ScaleUnit(weights_.input_norm, kept.unit1.data(), rows, x);
  AddWeightGradients(qkv_, d_qkv, ld, x, rows);
  AddBiasGradients({weights_.q_bias, weights_.k_bias, weights_.v_bias}, d_qkv, ld, rows);
}

// Returns whether the pass goes on below.
bool FastLayer::MlpBackward(int64_t rows, const Until& until, float* dx, LayerKept& kept,
                            LayerScratch& scratch) const {
  const int64_t width = config_.hidden_size, mlp_width = config_.intermediate_size;
  const AdaptedGroup& gate_up = group(Stage::kGateUp);
  const AdaptedGroup& down = group(Stage::kDown);
  float* d_low = scratch.d_low.Reserve(
      std::max(down.LowSize(kept.down_group), gate_up.LowSize(kept.gate_up_group)));
  float* act = scratch.act.Reserve(rows * mlp_width);
  float* wide = kept.gate_up.data();
  const bool ends_at_down = !until.through && until.last == Stage::kDown;
  const float* d_out = down.OutputGradient(dx, rows, kept.down_group);
  down.LowRankGradient(d_out, kept.down_group, d_low);
  float* d_act = scratch.d_act.Reserve(rows * mlp_width);
  if (!ends_at_down) {
    down.InputGradient(d_out, d_low, rows, kept.down_group, d_act, scratch.gradient);
  }
  ForTokens(rows, [&](int64_t m) {
    float* gate = wide + m * 2 * mlp_width;
    float* act_row = act + m * mlp_width;
    if (ends_at_down) {
      Kernels().silu_mul(gate, gate + mlp_width, mlp_width, act_row);
    } else {
      Kernels().silu_mul_backward(gate, gate + mlp_width, d_act + m * mlp_width, mlp_width,
                                  act_row);
    }
  });
  down.ParameterGradients(act, nullptr, kept.down_group, d_out, d_low, scratch.gradient);
  AddWeightGradients(down_, d_out, width, act, rows);
  if (ends_at_down) return false;
  const float* d_wide = gate_up.OutputGradient(wide, rows, kept.gate_up_group);
  gate_up.LowRankGradient(d_wide, kept.gate_up_group, d_low);
  gate_up.ParameterGradients(kept.unit2.data(), weights_.post_norm.const_data_ptr<float>(),
                             kept.gate_up_group, d_wide, d_low, scratch.gradient);
  AddGateUpGradients(d_wide, rows, kept, scratch);
  if (!until.through && until.last == Stage::kGateUp) return false;
  float* d_norm = scratch.norm.Reserve(rows * width);
  gate_up.InputGradient(d_wide, d_low, rows, kept.gate_up_group, d_norm, scratch.gradient);
  NormBackward(weights_.post_norm, d_norm, kept.unit2.data(), kept.factor2.data(), rows, dx);
  return true;
}

bool FastLayer::OutBackward(int64_t rows, const Until& until, const float* dx, LayerKept& kept,
                            LayerScratch& scratch) const {
  const AdaptedGroup& out = group(Stage::kOut);
  float* d_low = scratch.d_low.Reserve(out.LowSize(kept.out_group));
  const float* d_out = out.OutputGradient(dx, rows, kept.out_group);
  out.LowRankGradient(d_out, kept.out_group, d_low);
  out.ParameterGradients(kept.mixed.data(), nullptr, kept.out_group, d_out, d_low,
                         scratch.gradient);
  AddWeightGradients(out_, d_out, config_.hidden_size, kept.mixed.data(), rows);
  AddBiasGradients({weights_.o_bias}, d_out, config_.hidden_size, rows);
  if (!until.through && until.last == Stage::kOut) return false;
  out.InputGradient(d_out, d_low, rows, kept.out_group, scratch.d_mixed.data(), scratch.gradient);
  return true;
}

void FastLayer::QkvBackward(const LayerTokens& tokens, const Until& until, float* dx,
                            LayerKept& kept, LayerScratch& scratch) const {
  const int64_t rows = tokens.num_all();
  const AdaptedGroup& qkv = group(Stage::kQkv);
  float* d_qkv = scratch.d_qkv.Reserve(rows * qkv.out_features());
  scratch.attention.Backward(index_, *tokens.layout, kept.qkv.data(), kept.attention,
                             {scratch.d_mixed.data(), scratch.delta.data()}, d_qkv);
  FinishQkvBackward(tokens, kept, d_qkv);
  float* d_low = scratch.d_low.Reserve(qkv.LowSize(kept.qkv_group));
  const float* d_out = qkv.OutputGradient(d_qkv, rows, kept.qkv_group);
  qkv.LowRankGradient(d_out, kept.qkv_group, d_low);
  qkv.ParameterGradients(kept.unit1.data(), weights_.input_norm.const_data_ptr<float>(),
                         kept.qkv_group, d_out, d_low, scratch.gradient);
  AddQkvGradients(d_out, rows, kept, scratch);
  if (!until.through) return;
  float* d_norm = scratch.norm.Reserve(rows * config_.hidden_size);
  qkv.InputGradient(d_out, d_low, rows, kept.qkv_group, d_norm, scratch.gradient);
  NormBackward(weights_.input_norm, d_norm, kept.unit1.data(), kept.factor1.data(), rows, dx);
}

void FastLayer::Backward(const LayerTokens& tokens, const Until& until, float* dx, LayerKept& kept,
                         LayerScratch& scratch) const {
  const int64_t all = tokens.num_all(), on = tokens.num_on();
  const int64_t mixed_width = group(Stage::kOut).in_features();
  if (!MlpBackward(on, until, dx, kept, scratch)) return;
  float* d_mixed = scratch.d_mixed.Reserve(all * mixed_width);
  if (!OutBackward(on, until, dx, kept, scratch)) return;
  float* delta = scratch.delta.Reserve(all * config_.num_heads);
  scratch.attention.Delta(kept.mixed.data(), d_mixed, on, delta);
  if (tokens.only_predicting) {
    Scatter(tokens.layout->predicting, all, config_.num_heads, delta);
    Scatter(tokens.layout->predicting, all, mixed_width, d_mixed);
    Scatter(tokens.layout->predicting, all, config_.hidden_size, dx);
  }
  QkvBackward(tokens, until, dx, kept, scratch);
}

}  // namespace evolora
