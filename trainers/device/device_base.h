#pragma once

#include <vector>

#include "ATen/core/Tensor.h"
#include "device/device_math.h"
#include "device/device_matrix.h"
#include "evolora/model/llama_weights.h"

namespace evolora {

// Pairs of where values are kept on a device and where they come from: to be copied before the
// first pass and after every update.
struct DeviceCopies {
  std::vector<at::Tensor> to;
  std::vector<at::Tensor> from;
};

// One decoder layer on a device: matrices that read the same input stand in one, [out, in].
// Undefined tensors: parts the architecture does not have.
struct DeviceBaseLayer {
  at::Tensor input_norm, post_norm;  // [D] fp32
  DeviceMatrix qkv, o, gate_up, down;
  at::Tensor qkv_bias, o_bias;      // of the math's dtype
  at::Tensor query_norm, key_norm;  // [E] fp32
  // Where the norms' gradients are added; undefined: frozen.
  struct NormGradients {
    at::Tensor input, post, query, key;
  };
  NormGradients gradients;
  // The same of the matrices' parts and of their biases; no part: frozen.
  struct GroupGradients {
    std::vector<at::Tensor> weights, biases;
  };
  GroupGradients qkv_gradients, o_gradients, gate_up_gradients, down_gradients;
};

// A base on a device, frozen but for what has a gradient. The head shares the embedding's memory
// when the base is tied.
struct DeviceBase {
  DeviceMatrix embedding;  // [V, D]
  std::vector<DeviceBaseLayer> layers;
  at::Tensor final_norm;                                              // [D] fp32
  DeviceMatrix head;                                                  // [V, D]
  at::Tensor embedding_gradient, final_norm_gradient, head_gradient;  // undefined: frozen
};

// Copies, and rounds to the math's dtype what is not in few bits. What requires a gradient is
// trained: its gradient tensor is where gradients are added, its values are copied again by
// `copies`. Of matrices that stand in one all do or none. Matrices in few bits are widened into one
// buffer, of those of the vocabulary `values_at_once`. Throws c10::OutOfMemoryError.
DeviceBase CopyBase(const LlamaWeights& weights, const DeviceMath& math, int64_t values_at_once,
                    DeviceCopies& copies);

// Copies what of `weights` outside the layers' matrices requires a gradient in place of what `base`
// has of it.
void CopyTrained(const LlamaWeights& weights, const DeviceMath& math, DeviceCopies& copies,
                 DeviceBase& base);

// A frozen base on a device for one path after the other, in the order of one stream, with the math
// that its matrices are widened by.
struct ResidentBase {
  // As CopyBase.
  ResidentBase(const LlamaWeights& weights, at::Device device, at::ScalarType dtype,
               int64_t values_at_once);
  ResidentBase(const ResidentBase&) = delete;
  ResidentBase& operator=(const ResidentBase&) = delete;

  const DeviceMath math;
  DeviceBase base;
};

// gradient += sum over rows of dy unit, of y = weight * unit [rows, width]; undefined: nothing.
void AddNormGradient(const at::Tensor& dy, const at::Tensor& unit, const at::Tensor& gradient);

}  // namespace evolora
