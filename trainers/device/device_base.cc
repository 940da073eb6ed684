#include "device/device_base.h"

#include "ATen/Functions.h"
#include "ATen/core/grad_mode.h"

namespace evolora {
namespace {

// The tensors above each other, row by row.
at::Tensor Join(const std::vector<at::Tensor>& parts, const at::TensorOptions& options) {
  std::vector<int64_t> sizes = parts.front().sizes().vec();
  sizes[0] = 0;
  for (const at::Tensor& part : parts) sizes[0] += part.size(0);
  at::Tensor joined = at::empty(sizes, options);
  int64_t row = 0;
  for (const at::Tensor& part : parts) {
    joined.narrow(0, row, part.size(0)).copy_(part);
    row += part.size(0);
  }
  return joined;
}

at::Tensor CopyOf(const at::Tensor& tensor, const at::TensorOptions& options) {
  return tensor.defined() ? Join({tensor}, options) : at::Tensor();
}

// Copies tensors that may be trained.
class TrainedCopies {
 public:
  explicit TrainedCopies(DeviceCopies& copies) : copies_(copies) {}

  at::Tensor Copy(const at::Tensor& from, const at::TensorOptions& options, at::Tensor& gradient) {
    const at::Tensor to = CopyOf(from, options);
    if (!from.defined() || !from.requires_grad()) return to;
    copies_.to.push_back(to);
    copies_.from.push_back(from.detach());
    gradient = from.grad();
    return to;
  }

 private:
  DeviceCopies& copies_;
};

}  // namespace

DeviceBase CopyBase(const LlamaWeights& weights, const DeviceMath& math, DeviceCopies& copies) {
  const at::NoGradGuard no_grad;
  TrainedCopies trained(copies);
  DeviceBase base;
  base.embedding = trained.Copy(weights.embedding, math.options(), base.embedding_gradient);
  const bool tied = weights.head.is_same(weights.embedding) ||
                    weights.head.const_data_ptr() == weights.embedding.const_data_ptr();
  base.head =
      tied ? base.embedding : trained.Copy(weights.head, math.options(), base.head_gradient);
  base.final_norm = trained.Copy(weights.final_norm, math.fp32(), base.final_norm_gradient);
  for (const LlamaLayer& from : weights.layers) {
    DeviceBaseLayer layer{.qkv = Join({from.q, from.k, from.v}, math.options()),
                          .o = CopyOf(from.o, math.options()),
                          .gate_up = Join({from.gate, from.up}, math.options()),
                          .down = CopyOf(from.down, math.options()),
                          .o_bias = CopyOf(from.o_bias, math.options())};
    DeviceBaseLayer::NormGradients& gradients = layer.gradients;
    layer.input_norm = trained.Copy(from.input_norm, math.fp32(), gradients.input);
    layer.post_norm = trained.Copy(from.post_norm, math.fp32(), gradients.post);
    layer.query_norm = trained.Copy(from.q_norm, math.fp32(), gradients.query);
    layer.key_norm = trained.Copy(from.k_norm, math.fp32(), gradients.key);
    if (from.q_bias.defined()) {
      layer.qkv_bias = Join({from.q_bias, from.k_bias, from.v_bias}, math.options());
    }
    base.layers.push_back(std::move(layer));
  }
  return base;
}

void AddNormGradient(const at::Tensor& dy, const at::Tensor& unit, const at::Tensor& gradient) {
  if (!gradient.defined()) return;
  gradient.add_(dy.to(at::kFloat).mul(unit).sum(0));
}

}  // namespace evolora
