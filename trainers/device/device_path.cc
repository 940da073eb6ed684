// N tokens, M tokens that predict something, D model width.
#include "device/device_path.h"

#include <algorithm>
#include <vector>

#include "ATen/Functions.h"
#include "ATen/core/grad_mode.h"
#include "c10/core/DeviceGuard.h"
#include "device/device_base.h"
#include "device/device_head.h"
#include "device/device_layer.h"
#include "device/device_tokens.h"
#include "evolora/model/rope.h"
#include "token_layout.h"

namespace evolora {
namespace {

class DevicePath : public GradientPath {
 public:
  DevicePath(const GradientPathInputs& inputs, const DevicePathOptions& options)
      : inputs_(inputs),
        config_(inputs.base->config),
        math_(options.device, options.dtype),
        base_(CopyBase(*inputs.base, math_)),
        head_(math_, base_.head, options.logits_per_chunk),
        loss_sum_(at::zeros({}, math_.fp32().dtype(at::kDouble))),
        rope_frequencies_(RopeInverseFrequencies(config_)) {
    for (int64_t i = 0; i < config_.num_layers; ++i) {
      layers_.emplace_back(config_, base_.layers[static_cast<size_t>(i)], *inputs.lora, i, math_);
      layers_.back().AppendCopies(copies_);
    }
    std::vector<TrainedParts> parts;
    for (const DeviceLayer& layer : layers_) parts.push_back(layer.trained_parts());
    lowest_ = LowestTrained(parts);
    kept_.resize(static_cast<size_t>(std::max<int64_t>(1, config_.num_layers - lowest_.layer)));
  }

  absl::StatusOr<double> AddGradient(absl::Span<const int64_t> step_rows, double factor) override {
    const at::NoGradGuard no_grad;
    const c10::DeviceGuard guard(math_.device());
    at::_foreach_copy_(copies_.to, copies_.from);
    loss_sum_.zero_();
    for (const std::vector<int64_t>& indices :
         PackedMicroBatches(inputs_.rows, step_rows, inputs_.recipe->tokens_per_micro_batch,
                            /*share_prefixes=*/false)) {
      MicroBatch(LayOutTokens(inputs_.rows, indices, /*share_prefixes=*/false), factor);
    }
    return loss_sum_.item<double>();
  }

 private:
  // Layers below the lowest adapted one leave nothing and share one place.
  DeviceLayerKept& Kept(int64_t layer) {
    return kept_[static_cast<size_t>(std::max<int64_t>(0, layer - lowest_.layer))];
  }

  DevicePass Pass(const DeviceTokens& tokens, int64_t layer) const {
    return {.tokens = &tokens,
            .cos = rope_cos_,
            .sin = rope_sin_,
            .only_predicting = layer == config_.num_layers - 1};
  }

  void GrowRope(int64_t positions) {
    const int64_t have = rope_cos_.defined() ? rope_cos_.size(0) : 0;
    if (positions <= have) return;
    const RopeTables tables =
        RopeAt(rope_frequencies_, at::arange(std::max(positions, 2 * have), at::kLong));
    rope_cos_ = tables.cos.to(math_.device());
    rope_sin_ = tables.sin.to(math_.device());
  }

  void MicroBatch(const TokenLayout& layout, double factor) {
    if (layout.predicting.empty()) return;
    const DeviceTokens tokens = MoveTokens(layout, math_);
    GrowRope(tokens.longest_row);
    at::Tensor x = base_.embedding.index_select(0, tokens.ids);
    for (int64_t i = 0; i < config_.num_layers; ++i) {
      layers_[static_cast<size_t>(i)].Forward(Pass(tokens, i), x, Kept(i), scratch_);
    }
    at::Tensor dx = Head(tokens, x, factor);
    for (int64_t i = config_.num_layers - 1; i >= lowest_.layer; --i) {
      const FastLayer::Until until = {.last = lowest_.stage, .through = i > lowest_.layer};
      layers_[static_cast<size_t>(i)].Backward(Pass(tokens, i), until, dx, Kept(i), scratch_);
    }
  }

  // The gradient of the last layer's output x, [M, D].
  at::Tensor Head(const DeviceTokens& tokens, const at::Tensor& x, double factor) {
    const DeviceMath::KeptNorm kept = {.unit = at::empty_like(x),
                                       .factors = at::empty({x.size(0)}, math_.fp32())};
    const at::Tensor hidden = at::empty_like(x), d_hidden = at::empty_like(x);
    math_.RmsNorm(x, base_.final_norm, config_.rms_norm_eps, kept, hidden);
    head_.LossAndGradient(tokens, hidden, factor, d_hidden, loss_sum_);
    const at::Tensor dx = at::zeros_like(x);
    math_.RmsNormBackward(d_hidden, base_.final_norm, kept, dx);
    return dx;
  }

  const GradientPathInputs inputs_;
  const LlamaConfig& config_;
  const DeviceMath math_;
  const DeviceBase base_;
  std::vector<DeviceLayer> layers_;
  DeviceGroup::Copies copies_;  // of all layers
  Lowest lowest_;
  DeviceHead head_;
  at::Tensor loss_sum_;                // of a step
  std::vector<DeviceLayerKept> kept_;  // from the lowest layer on
  DeviceScratch scratch_;
  at::Tensor rope_frequencies_, rope_cos_, rope_sin_;  // the last two by position
};

}  // namespace

std::unique_ptr<GradientPath> MakeDevicePath(const GradientPathInputs& inputs,
                                             const DevicePathOptions& options) {
  return std::make_unique<DevicePath>(inputs, options);
}

}  // namespace evolora
