#include "device/device_base.h"

#include "ATen/ops/empty.h"

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

at::Tensor Copy(const at::Tensor& tensor, const at::TensorOptions& options) {
  return tensor.defined() ? Join({tensor}, options) : at::Tensor();
}

}  // namespace

DeviceBase CopyBase(const LlamaWeights& weights, const DeviceMath& math) {
  DeviceBase base;
  base.embedding = Copy(weights.embedding, math.options());
  const bool tied = weights.head.is_same(weights.embedding) ||
                    weights.head.const_data_ptr() == weights.embedding.const_data_ptr();
  base.head = tied ? base.embedding : Copy(weights.head, math.options());
  base.final_norm = Copy(weights.final_norm, math.fp32());
  for (const LlamaLayer& from : weights.layers) {
    DeviceBaseLayer layer{.input_norm = Copy(from.input_norm, math.fp32()),
                          .post_norm = Copy(from.post_norm, math.fp32()),
                          .qkv = Join({from.q, from.k, from.v}, math.options()),
                          .o = Copy(from.o, math.options()),
                          .gate_up = Join({from.gate, from.up}, math.options()),
                          .down = Copy(from.down, math.options()),
                          .o_bias = Copy(from.o_bias, math.options()),
                          .query_norm = Copy(from.q_norm, math.fp32()),
                          .key_norm = Copy(from.k_norm, math.fp32())};
    if (from.q_bias.defined()) {
      layer.qkv_bias = Join({from.q_bias, from.k_bias, from.v_bias}, math.options());
    }
    base.layers.push_back(std::move(layer));
  }
  return base;
}

}  // namespace evolora
