#pragma once

#include <cstdint>

#include "ATen/core/Tensor.h"
#include "device/device_loss.h"
#include "device/device_math.h"
#include "device/device_matrix.h"
#include "device/device_tokens.h"
#include "device/tensor_buffer.h"

namespace evolora {

// The head on a device with the losses of a micro-batch's labels.
class DeviceHead {
 public:
  // head_VD's gradient, fp32, is where it is added (undefined: frozen). `math` outlives the object.
  // Of logits, no more than about `logits_per_chunk` exist at once (but always those of 16 rows).
  DeviceHead(const DeviceMath& math, DeviceMatrix head_VD, at::Tensor gradient,
             int64_t logits_per_chunk);

  const DeviceMatrix& weight() const { return head_VD_; }

  // hidden [M, D] after the final norm. Adds the loss and its other terms to sums [kLossTerms]
  // (fp64, on the device) and writes d(loss * tokens.factor) / d hidden to d_hidden. For a loss
  // that ties labels the logits are computed twice, unless they fit into one chunk.
  void LossAndGradient(const DeviceTokens& tokens, DeviceLoss& loss, const at::Tensor& hidden,
                       const at::Tensor& d_hidden, const at::Tensor& sums);

  // Logits of hidden states [rows, D] on the host, fp32 [rows, V].
  void Logits(const float* hidden, int64_t rows, float* logits) const;

 private:
  at::Tensor LogitsOf(const at::Tensor& hidden);

  const DeviceMath& math_;
  DeviceMatrix head_VD_;
  at::Tensor gradient_;
  int64_t logits_per_chunk_;
  TensorBuffer logits_;
};

}  // namespace evolora
