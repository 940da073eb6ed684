// N tokens, M tokens that predict something, D model width.
#include "device/device_model.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "ATen/Functions.h"
#include "ATen/core/List.h"
#include "evolora/model/rope.h"

namespace evolora {

DeviceModel::DeviceModel(const LlamaConfig& config, DeviceBase base, DeviceCopies copies,
                         const LoraTensors& lora, const AdapterDropout* dropout,
                         const DeviceMath& math, const PackedAttention* packed,
                         const DeviceLimits& limits)
    : config_(config),
      math_(math),
      copies_(std::move(copies)),
      base_(std::move(base)),
      head_(math_, base_.head, base_.head_gradient, limits.logits_per_chunk),
      rope_frequencies_(RopeInverseFrequencies(config_)) {
  for (int64_t i = 0; i < config_.num_layers; ++i) {
    layers_.emplace_back(config_, base_.layers[static_cast<size_t>(i)], lora, dropout, i, math_,
                         packed);
    layers_.back().AppendCopies(copies_);
  }
  std::vector<TrainedParts> parts;
  for (const DeviceLayer& layer : layers_) parts.push_back(layer.trained_parts());
  lowest_ = LowestTrained(parts);
  if (base_.embedding_gradient.defined()) lowest_ = {.layer = 0, .inside = false};
  kept_.resize(static_cast<size_t>(std::max<int64_t>(1, config_.num_layers - lowest_.layer)));
}

void DeviceModel::TakeAdapter() const {
  at::_foreach_copy_(copies_.to, copies_.from);
  for (const DeviceLayer& layer : layers_) layer.UpdateMagnitudes();
}

void DeviceModel::ReservePositions(int64_t positions) {
  const int64_t have = rope_cos_.defined() ? rope_cos_.size(0) : 0;
  if (positions <= have) return;
  const RopeTables tables = RopeAt(rope_frequencies_, at::arange(positions, at::kLong));
  rope_cos_ = tables.cos.to(math_.device());
  rope_sin_ = tables.sin.to(math_.device());
}

// Layers below the lowest adapted one leave nothing and share one place.
DeviceLayerKept& DeviceModel::Kept(int64_t layer) {
  return kept_[static_cast<size_t>(std::max<int64_t>(0, layer - lowest_.layer))];
}

DevicePass DeviceModel::Pass(const DeviceTokens& tokens, int64_t layer, bool bare) const {
  return {.tokens = &tokens,
          .cos = rope_cos_,
          .sin = rope_sin_,
          .only_predicting = layer == config_.num_layers - 1,
          .bare = bare};
}

at::Tensor DeviceModel::Hidden(const DeviceTokens& tokens, bool bare) {
  at::Tensor x = base_.embedding.Lookup(tokens.ids);
  for (int64_t i = 0; i < config_.num_layers; ++i) {
    layers_[static_cast<size_t>(i)].Forward(Pass(tokens, i, bare), x, Kept(i), scratch_);
  }
  const at::Tensor hidden = at::empty_like(x);
  math_.RmsNorm(x, base_.final_norm, config_.rms_norm_eps,
                {.unit = unit_.Reserve(x.sizes(), math_.options()),
                 .factors = factors_.Reserve({x.size(0)}, math_.fp32())},
                hidden);
  return hidden;
}

void DeviceModel::Backward(const DeviceTokens& tokens, const at::Tensor& d_hidden) {
  AddNormGradient(d_hidden, unit_.get(), base_.final_norm_gradient);
  at::Tensor dx = at::zeros_like(d_hidden);
  math_.RmsNormBackward(d_hidden, base_.final_norm, {unit_.get(), factors_.get()}, dx);
  for (int64_t i = config_.num_layers - 1; i >= lowest_.layer; --i) {
    const FastLayer::Until until = {.last = lowest_.stage,
                                    .through = i > lowest_.layer || !lowest_.inside};
    layers_[static_cast<size_t>(i)].Backward(Pass(tokens, i, /*bare=*/false), until, dx, Kept(i),
                                             scratch_);
  }
  if (!base_.embedding_gradient.defined()) return;
  // Sorted by id before they are added: in one order.
  c10::List<std::optional<at::Tensor>> rows;
  rows.push_back(tokens.ids.to(at::kLong));
  at::Tensor(base_.embedding_gradient).index_put_(rows, dx.to(at::kFloat), /*accumulate=*/true);
}

}  // namespace evolora
