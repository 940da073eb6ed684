#pragma once

#include <vector>

#include "ATen/core/Tensor.h"
#include "device/device_math.h"
#include "evolora/model/llama_weights.h"

namespace evolora {

// One decoder layer on a device: matrices that read the same input stand in one, [out, in].
// Undefined tensors: parts the architecture does not have.
struct DeviceBaseLayer {
  at::Tensor input_norm, post_norm;  // [D] fp32
  at::Tensor qkv, o, gate_up, down;  // of the math's dtype
  at::Tensor qkv_bias, o_bias;       // the same
  at::Tensor query_norm, key_norm;   // [E] fp32
};

// A frozen base on a device. The head shares the embedding's memory when the base is tied.
struct DeviceBase {
  at::Tensor embedding;  // [V, D]
  std::vector<DeviceBaseLayer> layers;
  at::Tensor final_norm;  // [D] fp32
  at::Tensor head;        // [V, D]
};

// Copies and rounds to the math's dtype. Throws c10::OutOfMemoryError.
DeviceBase CopyBase(const LlamaWeights& weights, const DeviceMath& math);

}  // namespace evolora
