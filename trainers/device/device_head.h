#pragma once

#include <cstdint>

#include "ATen/core/Tensor.h"
#include "device/device_math.h"
#include "device/device_tokens.h"
#include "device/tensor_buffer.h"

namespace evolora {

// The frozen head on a device with the cross entropy of a micro-batch's targets.
class DeviceHead {
 public:
  // head_VD of the math's dtype; `math` outlives the object. Of logits, no more than about
  // `logits_per_chunk` exist at once (but always those of 16 rows).
  DeviceHead(const DeviceMath& math, at::Tensor head_VD,
             int64_t logits_per_chunk = int64_t{1} << 28);

  // hidden [M, D] after the final norm. Adds the sum of the targets' cross entropies to loss_sum
  // (fp64, one value on the device) and writes d(sum * factor) / d hidden to d_hidden.
  void LossAndGradient(const DeviceTokens& tokens, const at::Tensor& hidden, double factor,
                       const at::Tensor& d_hidden, const at::Tensor& loss_sum);

 private:
  const DeviceMath& math_;
  at::Tensor head_VD_;
  int64_t logits_per_chunk_;
  TensorBuffer logits_;
};

}  // namespace evolora
