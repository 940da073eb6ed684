#pragma once

#include <cstdint>
#include <memory>

#include "ATen/core/Tensor.h"
#include "device/batch_shape.h"
#include "device/device_math.h"
#include "device/device_tokens.h"
#include "loss.h"
#include "token_layout.h"

namespace evolora {

// A loss (loss.h) on a device. Label i of a micro-batch is that of predicting token i, as it is
// without shared prefixes. All but Move depends on nothing but the shape of the tokens and memory
// of the device. `sums` [kLossTerms] fp64 gets sums of terms (label_kernels.h): the loss is the
// first.
class DeviceLoss {
 public:
  virtual ~DeviceLoss() = default;

  // Labels [first, first + count) of a micro-batch.
  struct Labels {
    int64_t first = 0;
    int64_t count = 0;
  };

  // What the labels of a micro-batch need, to the device: before all else for it.
  virtual void Move(const TokenLayout& layout, const BatchShape& shape) = 0;

  // A loss that ties labels together sees the logits of all of them, then Tie once, before the
  // first Turn.
  virtual bool ties_labels() const { return false; }
  virtual void See(const DeviceTokens& tokens, const Labels& labels, const at::Tensor& logits);
  virtual void Tie(const DeviceTokens& tokens, const at::Tensor& sums);

  // The logits [count, V] of these labels become tokens.factor * d loss / d logits.
  virtual void Turn(const DeviceTokens& tokens, const Labels& labels, const at::Tensor& logits,
                    const at::Tensor& sums) = 0;
};

// All outlive it. head_VD: the model's head, for what teachers say.
std::unique_ptr<DeviceLoss> MakeDeviceLoss(const Loss& loss, const DeviceMath& math,
                                           const at::Tensor& head_VD);

// Its parts: of policy, dpo, distill.
std::unique_ptr<DeviceLoss> MakeDevicePolicy(const Loss& loss, const DeviceMath& math);
std::unique_ptr<DeviceLoss> MakeDeviceDpo(const Loss& loss, const DeviceMath& math);
std::unique_ptr<DeviceLoss> MakeDeviceDistill(const Loss& loss, const DeviceMath& math,
                                              const at::Tensor& head_VD);

}  // namespace evolora
