#pragma once

#include <cstdint>
#include <memory>

#include "ATen/core/Tensor.h"
#include "device/batch_shape.h"
#include "device/device_math.h"
#include "device/device_matrix.h"
#include "device/device_tokens.h"
#include "device/head_rows.h"
#include "loss.h"
#include "token_layout.h"

namespace evolora {

// A loss (loss.h) on a device, over the head's rows of a micro-batch (head_rows.h): row i is label
// i where the loss goes by label. All but Move depends on nothing but the shape of the tokens and
// memory of the device. `sums` [kLossTerms] fp64 gets sums of terms (label_kernels.h): the loss is
// the first.
class DeviceLoss {
 public:
  virtual ~DeviceLoss() = default;

  // Head rows [first, first + count) of a micro-batch.
  struct Labels {
    int64_t first = 0;
    int64_t count = 0;
  };

  // The head rows that the loss wants for a layout.
  virtual HeadRows RowsOf(const TokenLayout& layout) const { return RowsByLabel(layout); }

  // What the rows of a micro-batch need, to the device: before all else for it.
  virtual void Move(const HeadRows& head, const BatchShape& shape) = 0;

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
                                           const DeviceMatrix& head_VD);

// Its parts: of policy, dpo, distill.
std::unique_ptr<DeviceLoss> MakeDevicePolicy(const Loss& loss, const DeviceMath& math);
std::unique_ptr<DeviceLoss> MakeDeviceDpo(const Loss& loss, const DeviceMath& math);
std::unique_ptr<DeviceLoss> MakeDeviceDistill(const Loss& loss, const DeviceMath& math,
                                              const DeviceMatrix& head_VD);

}  // namespace evolora
