#pragma once

#include <cstdint>
#include <vector>

#include "ATen/core/Tensor.h"
#include "device/device_base.h"
#include "device/device_head.h"
#include "device/device_layer.h"
#include "device/device_limits.h"
#include "device/device_math.h"
#include "device/device_tokens.h"
#include "evolora/model/llama_weights.h"
#include "evolora/model/lora_tensors.h"

namespace evolora {

// A frozen base with one adapter on a device, and the memory of its passes. Whatever a pass depends
// on lies on the device: the same calls with tokens of the same shape start the same work there.
class DeviceModel {
 public:
  // `base` and `copies` are CopyBase's, or a ResidentBase's after CopyTrained: the embedding, head
  // and norms with a gradient are trained. `lora`, on the device of `math` as such tensors are, and
  // the others outlive the object. `dropout` null: none; `packed` null: plain attention.
  DeviceModel(const LlamaConfig& config, DeviceBase base, DeviceCopies copies,
              const LoraTensors& lora, const AdapterDropout* dropout, const DeviceMath& math,
              const PackedAttention* packed, const DeviceLimits& limits);

  // Takes over the adapter's present values: before its first pass and after every update.
  void TakeAdapter() const;
  // Makes room for rows of so many tokens: before a pass, which depends on where it is.
  void ReservePositions(int64_t positions);

  // The hidden states of tokens.predicting after the final norm, [M, D]. bare: without the adapter.
  at::Tensor Hidden(const DeviceTokens& tokens, bool bare);
  // Adds to the gradients of the adapter, after Hidden of the same tokens with the adapter.
  void Backward(const DeviceTokens& tokens, const at::Tensor& d_hidden);

  DeviceHead& head() { return head_; }
  const LlamaConfig& config() const { return config_; }

 private:
  DeviceLayerKept& Kept(int64_t layer);
  DevicePass Pass(const DeviceTokens& tokens, int64_t layer, bool bare) const;

  const LlamaConfig config_;
  const DeviceMath& math_;
  DeviceCopies copies_;  // of all that is trained
  const DeviceBase base_;
  std::vector<DeviceLayer> layers_;
  Lowest lowest_;
  DeviceHead head_;
  std::vector<DeviceLayerKept> kept_;  // from the lowest layer on
  DeviceScratch scratch_;
  TensorBuffer unit_, factors_;                        // of the final norm: [M, D], [M]
  at::Tensor rope_frequencies_, rope_cos_, rope_sin_;  // the last two by position
};

}  // namespace evolora
