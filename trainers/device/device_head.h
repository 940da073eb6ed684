#pragma once

#include <cstdint>

#include "ATen/core/Tensor.h"
#include "device/device_math.h"
#include "device/device_tokens.h"
#include "device/tensor_buffer.h"
#include "loss.h"
#include "token_layout.h"

namespace evolora {

// The frozen head on a device with the losses of a micro-batch's targets.
class DeviceHead {
 public:
  // head_VD of the math's dtype; `math` outlives the object. Of logits, no more than about
  // `logits_per_chunk` exist at once (but always those of 16 rows).
  DeviceHead(const DeviceMath& math, at::Tensor head_VD, int64_t logits_per_chunk);

  // hidden [M, D] after the final norm. Adds the sum of the targets' cross entropies to loss_sum
  // (fp64, one value on the device) and writes d(sum * tokens.factor) / d hidden to d_hidden.
  void CrossEntropy(const DeviceTokens& tokens, const at::Tensor& hidden,
                    const at::Tensor& d_hidden, const at::Tensor& loss_sum);

  // The same for any loss, which sees the logits on the host: they go there and their gradients
  // come back. Returns the sum. Rows of padding get no gradient.
  double HostLoss(const TokenLayout& layout, Loss& loss, double factor, const at::Tensor& hidden,
                  const at::Tensor& d_hidden);

  // Logits of hidden states [rows, D] on the host, fp32 [rows, V].
  void Logits(const float* hidden, int64_t rows, float* logits) const;

 private:
  int64_t RowsPerChunk(int64_t logits_per_chunk) const;
  at::Tensor HostLogits(const at::Tensor& hidden) const;
  void GiveLogProbs(const TokenLayout& layout, const at::Tensor& hidden,
                    absl::Span<double> log_probs) const;

  const DeviceMath& math_;
  at::Tensor head_VD_;
  int64_t logits_per_chunk_;
  TensorBuffer logits_;
};

}  // namespace evolora
