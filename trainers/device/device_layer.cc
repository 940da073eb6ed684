// N tokens, M tokens that go on after attention, D model width, F MLP width, H query heads, K
// key heads, E head width.
#include "device/device_layer.h"

#include <algorithm>

#include "ATen/Functions.h"
#include "absl/strings/str_cat.h"

namespace evolora {
namespace {

// The gradient of all tokens from that of the head's rows, of which a token may have several.
at::Tensor OfAllTokens(const DeviceMath& math, const at::Tensor& rows, const DeviceTokens& tokens) {
  const at::Tensor all = at::empty({tokens.shape.tokens, rows.size(1)}, rows.options());
  math.SumRows(rows, tokens.places_of_predicting, all);
  return all;
}

}  // namespace

DeviceLayer::DeviceLayer(const LlamaConfig& config, const DeviceBaseLayer& base,
                         const LoraTensors& lora, const AdapterDropout* dropout, int64_t index,
                         const DeviceMath& math, const PackedAttention* packed)
    : config_(config), base_(base), math_(math), index_(index), attention_(config, math, packed) {
  const auto part = [&](const char* name) -> DeviceGroup::Part {
    const std::string path = absl::StrCat("model.layers.", index, ".", name);
    const auto found = lora.modules.find(path);
    return {LinearShape(config, path).first, found == lora.modules.end() ? nullptr : &found->second,
            dropout == nullptr ? 0 : dropout->ModuleKey(path)};
  };
  using Parts = std::vector<DeviceGroup::Part>;
  groups_.emplace_back(
      math, base.qkv, base.qkv_bias,
      Parts{part("self_attn.q_proj"), part("self_attn.k_proj"), part("self_attn.v_proj")}, dropout,
      base.qkv_gradients);
  groups_.emplace_back(math, base.o, base.o_bias, Parts{part("self_attn.o_proj")}, dropout,
                       base.o_gradients);
  groups_.emplace_back(math, base.gate_up, at::Tensor(),
                       Parts{part("mlp.gate_proj"), part("mlp.up_proj")}, dropout,
                       base.gate_up_gradients);
  groups_.emplace_back(math, base.down, at::Tensor(), Parts{part("mlp.down_proj")}, dropout,
                       base.down_gradients);
}

TrainedParts DeviceLayer::trained_parts() const {
  const DeviceBaseLayer::NormGradients& norms = base_.gradients;
  TrainedParts parts = {.input_norm = norms.input.defined(),
                        .head_norms = norms.query.defined() || norms.key.defined(),
                        .post_norm = norms.post.defined()};
  for (size_t i = 0; i < groups_.size(); ++i) parts.stages[i] = groups_[i].trained();
  return parts;
}

void DeviceLayer::AppendCopies(DeviceCopies& copies) const {
  for (const DeviceGroup& group : groups_) group.AppendCopies(copies);
}

void DeviceLayer::UpdateMagnitudes() const {
  for (const DeviceGroup& group : groups_) group.UpdateMagnitudes();
}

// In scratch.norm.
at::Tensor DeviceLayer::Normed(const at::Tensor& weight, const at::Tensor& x, TensorBuffer& unit,
                               TensorBuffer& factors, DeviceScratch& scratch) const {
  const at::Tensor& y = scratch.norm.Reserve(x.sizes(), math_.options());
  math_.RmsNorm(x, weight, config_.rms_norm_eps,
                {.unit = unit.Reserve(x.sizes(), math_.options()),
                 .factors = factors.Reserve({x.size(0)}, math_.fp32())},
                y);
  return y;
}

RotateHeadsArgs DeviceLayer::HeadArgs(const DevicePass& pass, DeviceLayerKept& kept) const {
  RotateHeadsArgs args = {.query_heads = config_.num_heads,
                          .key_heads = config_.num_kv_heads,
                          .head_width = config_.head_dim,
                          .positions = pass.tokens->positions.const_data_ptr<int32_t>(),
                          .cos = pass.cos.const_data_ptr<float>(),
                          .sin = pass.sin.const_data_ptr<float>(),
                          .eps = static_cast<float>(config_.rms_norm_eps)};
  if (!config_.qk_norm) return args;
  const int64_t rows = pass.tokens->shape.tokens, turned = config_.num_heads + config_.num_kv_heads;
  args.query_weight = base_.query_norm.const_data_ptr<float>();
  args.key_weight = base_.key_norm.const_data_ptr<float>();
  args.unit =
      kept.qk_unit.Reserve({rows, turned, config_.head_dim}, math_.options()).mutable_data_ptr();
  args.factors = kept.qk_factors.Reserve({rows, turned}, math_.fp32()).mutable_data_ptr<float>();
  return args;
}

void DeviceLayer::AttentionForward(const DevicePass& pass, at::Tensor& x, DeviceLayerKept& kept,
                                   DeviceScratch& scratch) const {
  const DeviceGroup& qkv = group(Stage::kQkv);
  const at::Tensor norm = Normed(base_.input_norm, x, kept.unit1, kept.factors1, scratch);
  const int64_t all = x.size(0);
  const at::Tensor& wide = kept.qkv.Reserve({all, qkv.out_features()}, math_.options());
  qkv.Forward(norm, pass.rows(), wide, DeviceGroup::Store::kSet, kept.qkv_group, scratch.group);
  math_.RotateHeads(HeadArgs(pass, kept), wide);
  kept.mixed = attention_.Forward(index_, *pass.tokens, wide, kept.attention);
  if (pass.only_predicting) {
    kept.mixed = kept.mixed.index_select(0, pass.tokens->predicting);
    x = x.index_select(0, pass.tokens->predicting);
  }
  group(Stage::kOut)
      .Forward(kept.mixed, pass.rows_on(), x, DeviceGroup::Store::kAdd, kept.out_group,
               scratch.group);
}

void DeviceLayer::MlpForward(const DevicePass& pass, const at::Tensor& x, DeviceLayerKept& kept,
                             DeviceScratch& scratch) const {
  const int64_t rows = x.size(0), mlp_width = config_.intermediate_size;
  const at::Tensor norm = Normed(base_.post_norm, x, kept.unit2, kept.factors2, scratch);
  const at::Tensor& wide = kept.gate_up.Reserve({rows, 2 * mlp_width}, math_.options());
  group(Stage::kGateUp)
      .Forward(norm, pass.rows_on(), wide, DeviceGroup::Store::kSet, kept.gate_up_group,
               scratch.group);
  const at::Tensor& act = scratch.act.Reserve({rows, mlp_width}, math_.options());
  math_.SwiGlu(wide, act);
  group(Stage::kDown)
      .Forward(act, pass.rows_on(), x, DeviceGroup::Store::kAdd, kept.down_group, scratch.group);
}

void DeviceLayer::Forward(const DevicePass& pass, at::Tensor& x, DeviceLayerKept& kept,
                          DeviceScratch& scratch) const {
  AttentionForward(pass, x, kept, scratch);
  MlpForward(pass, x, kept, scratch);
}

// Returns whether the pass goes on below, as the next two do. Leaves the gradient of gate and up in
// kept.gate_up.
bool DeviceLayer::DownBackward(const DevicePass& pass, const FastLayer::Until& until,
                               const at::Tensor& dx, DeviceLayerKept& kept,
                               DeviceScratch& scratch) const {
  const DeviceGroup& down = group(Stage::kDown);
  const int64_t rows = dx.size(0), mlp_width = config_.intermediate_size;
  const at::Tensor& wide = kept.gate_up.get();
  const at::Tensor& act = scratch.act.Reserve({rows, mlp_width}, math_.options());
  const at::Tensor d_out = down.OutputGradient(dx, kept.down_group);
  const at::Tensor d_low = scratch.d_low.Reserve({rows, down.rank()}, math_.options());
  down.LowRankGradient(d_out, d_low);
  const bool ends = !until.through && until.last == Stage::kDown;
  if (ends) {
    math_.SwiGlu(wide, act);
  } else {
    const at::Tensor& d_act = scratch.d_act.Reserve({rows, mlp_width}, math_.options());
    down.InputGradient(d_out, d_low, pass.rows_on(), d_act, scratch.group);
    math_.SwiGluBackward(wide, d_act, act);
  }
  down.ParameterGradients(act, {}, pass.rows_on(), kept.down_group, d_out, d_low, scratch.group);
  return !ends;
}

bool DeviceLayer::GateUpBackward(const DevicePass& pass, const FastLayer::Until& until,
                                 const at::Tensor& dx, DeviceLayerKept& kept,
                                 DeviceScratch& scratch) const {
  const DeviceGroup& gate_up = group(Stage::kGateUp);
  const at::Tensor d_wide = gate_up.OutputGradient(kept.gate_up.get(), kept.gate_up_group);
  const at::Tensor d_low = scratch.d_low.Reserve({dx.size(0), gate_up.rank()}, math_.options());
  gate_up.LowRankGradient(d_wide, d_low);
  gate_up.ParameterGradients(kept.unit2.get(), base_.post_norm, pass.rows_on(), kept.gate_up_group,
                             d_wide, d_low, scratch.group);
  if (!until.through && until.last == Stage::kGateUp) return false;
  const at::Tensor& d_norm = scratch.norm.Reserve(dx.sizes(), math_.options());
  gate_up.InputGradient(d_wide, d_low, pass.rows_on(), d_norm, scratch.group);
  AddNormGradient(d_norm, kept.unit2.get(), base_.gradients.post);
  math_.RmsNormBackward(d_norm, base_.post_norm, {kept.unit2.get(), kept.factors2.get()}, dx);
  return true;
}

bool DeviceLayer::OutBackward(const DevicePass& pass, const FastLayer::Until& until,
                              const at::Tensor& dx, DeviceLayerKept& kept,
                              DeviceScratch& scratch) const {
  const DeviceGroup& out = group(Stage::kOut);
  const at::Tensor d_out = out.OutputGradient(dx, kept.out_group);
  const at::Tensor& d_low = scratch.d_low.Reserve({dx.size(0), out.rank()}, math_.options());
  out.LowRankGradient(d_out, d_low);
  out.ParameterGradients(kept.mixed, {}, pass.rows_on(), kept.out_group, d_out, d_low,
                         scratch.group);
  if (!until.through && until.last == Stage::kOut) return false;
  out.InputGradient(d_out, d_low, pass.rows_on(),
                    scratch.d_mixed.Reserve(kept.mixed.sizes(), math_.options()), scratch.group);
  return true;
}

// From the gradient behind RoPE, turned back in a copy.
void DeviceLayer::AddHeadNormGradients(const DevicePass& pass, const at::Tensor& d_qkv,
                                       DeviceLayerKept& kept) const {
  const DeviceBaseLayer::NormGradients& norms = base_.gradients;
  if (!norms.query.defined() && !norms.key.defined()) return;
  const int64_t queries = config_.num_heads, keys = config_.num_kv_heads, width = config_.head_dim;
  RotateHeadsArgs args = HeadArgs(pass, kept);
  args.query_weight = args.key_weight = nullptr;  // the rotation alone
  const at::Tensor turned = d_qkv.clone();
  math_.RotateHeadsBackward(args, turned);
  const at::Tensor dy = turned.narrow(1, 0, (queries + keys) * width);
  const at::Tensor sums =
      dy.reshape({dy.size(0), queries + keys, width}).to(at::kFloat).mul(kept.qk_unit.get()).sum(0);
  if (norms.query.defined()) norms.query.add_(sums.narrow(0, 0, queries).sum(0));
  if (norms.key.defined()) norms.key.add_(sums.narrow(0, queries, keys).sum(0));
}

void DeviceLayer::QkvBackward(const DevicePass& pass, const FastLayer::Until& until,
                              const at::Tensor& dx, DeviceLayerKept& kept,
                              DeviceScratch& scratch) const {
  const DeviceGroup& qkv = group(Stage::kQkv);
  const DeviceTokens& tokens = *pass.tokens;
  at::Tensor d_mixed = scratch.d_mixed.get();
  if (pass.only_predicting) d_mixed = OfAllTokens(math_, d_mixed, tokens);
  const at::Tensor& d_qkv = scratch.d_qkv.Reserve(kept.qkv.get().sizes(), math_.options());
  attention_.Backward(index_, tokens, kept.qkv.get(), kept.attention, d_mixed, d_qkv);
  AddHeadNormGradients(pass, d_qkv, kept);
  math_.RotateHeadsBackward(HeadArgs(pass, kept), d_qkv);
  const at::Tensor d_out = qkv.OutputGradient(d_qkv, kept.qkv_group);
  const at::Tensor& d_low = scratch.d_low.Reserve({d_qkv.size(0), qkv.rank()}, math_.options());
  qkv.LowRankGradient(d_out, d_low);
  qkv.ParameterGradients(kept.unit1.get(), base_.input_norm, pass.rows(), kept.qkv_group, d_out,
                         d_low, scratch.group);
  if (!until.through) return;
  const at::Tensor& d_norm = scratch.norm.Reserve(dx.sizes(), math_.options());
  qkv.InputGradient(d_out, d_low, pass.rows(), d_norm, scratch.group);
  AddNormGradient(d_norm, kept.unit1.get(), base_.gradients.input);
  math_.RmsNormBackward(d_norm, base_.input_norm, {kept.unit1.get(), kept.factors1.get()}, dx);
}

void DeviceLayer::Backward(const DevicePass& pass, const FastLayer::Until& until, at::Tensor& dx,
                           DeviceLayerKept& kept, DeviceScratch& scratch) const {
  if (!DownBackward(pass, until, dx, kept, scratch)) return;
  if (!GateUpBackward(pass, until, dx, kept, scratch)) return;
  if (!OutBackward(pass, until, dx, kept, scratch)) return;
  if (pass.only_predicting) dx = OfAllTokens(math_, dx, *pass.tokens);
  QkvBackward(pass, until, dx, kept, scratch);
}

}  // namespace evolora
