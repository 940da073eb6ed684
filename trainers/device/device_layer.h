#pragma once

#include <cstdint>
#include <vector>

#include "device/device_attention.h"
#include "device/device_base.h"
#include "device/device_group.h"
#include "device/device_math.h"
#include "device/device_tokens.h"
#include "device/tensor_buffer.h"
#include "evolora/model/lora_tensors.h"
#include "fast_layer.h"

namespace evolora {

// What one layer leaves for its backward pass. N tokens; M of them go on after attention.
struct DeviceLayerKept {
  TensorBuffer unit1, factors1;      // of the first norm: [N, D], [N]
  TensorBuffer qkv;                  // [N, (H + 2 K) E], as attention reads it
  TensorBuffer qk_unit, qk_factors;  // of the norms of q and k: [N, H + K, E], [N, H + K]
  PackedAttention::Kept attention;
  at::Tensor mixed;              // [M, H E]
  TensorBuffer unit2, factors2;  // of the second norm: [M, D], [M]
  TensorBuffer gate_up;          // [M, 2 F]; becomes its own gradient
  DeviceGroup::Kept qkv_group, out_group, gate_up_group, down_group;
};

// What layers share, one after the other.
struct DeviceScratch {
  TensorBuffer norm;        // [N, D]
  TensorBuffer act, d_act;  // [M, F]
  TensorBuffer d_mixed, d_qkv, d_low;
  TensorBuffer group;  // what a group works with
};

struct DevicePass {
  const DeviceTokens* tokens = nullptr;
  at::Tensor cos, sin;  // by position, [.., E / 2] fp32
  // Only the head's rows go on after attention: in the last layer.
  bool only_predicting = false;
  bool bare = false;  // the base alone
  // The rows of the groups before and after attention.
  DeviceGroup::Rows rows() const { return {bare, tokens->dropout_keys}; }
  DeviceGroup::Rows rows_on() const {
    return {bare, only_predicting ? tokens->predicting_keys : tokens->dropout_keys};
  }
};

// FastLayer on a device: the same formulas, over tensors.
class DeviceLayer {
 public:
  // All outlive the object. `dropout` null: none; `packed` null: plain attention.
  DeviceLayer(const LlamaConfig& config, const DeviceBaseLayer& base, const LoraTensors& lora,
              const AdapterDropout* dropout, int64_t index, const DeviceMath& math,
              const PackedAttention* packed);

  TrainedParts trained_parts() const;
  // As DeviceGroup's.
  void AppendCopies(DeviceCopies& copies) const;
  void UpdateMagnitudes() const;

  // x [N, D] becomes the output, [N or M, D]; its memory is written.
  void Forward(const DevicePass& pass, at::Tensor& x, DeviceLayerKept& kept,
               DeviceScratch& scratch) const;
  // dx, the gradient of the output, becomes that of the input; of no use when the pass ends in this
  // layer. Gradients of the adapters are added.
  void Backward(const DevicePass& pass, const FastLayer::Until& until, at::Tensor& dx,
                DeviceLayerKept& kept, DeviceScratch& scratch) const;

 private:
  const DeviceGroup& group(Stage stage) const { return groups_[static_cast<size_t>(stage)]; }
  at::Tensor Normed(const at::Tensor& weight, const at::Tensor& x, TensorBuffer& unit,
                    TensorBuffer& factors, DeviceScratch& scratch) const;
  RotateHeadsArgs HeadArgs(const DevicePass& pass, DeviceLayerKept& kept) const;
  void AddHeadNormGradients(const DevicePass& pass, const at::Tensor& d_qkv,
                            DeviceLayerKept& kept) const;
  void AttentionForward(const DevicePass& pass, at::Tensor& x, DeviceLayerKept& kept,
                        DeviceScratch& scratch) const;
  void MlpForward(const DevicePass& pass, const at::Tensor& x, DeviceLayerKept& kept,
                  DeviceScratch& scratch) const;
  bool DownBackward(const DevicePass& pass, const FastLayer::Until& until, const at::Tensor& dx,
                    DeviceLayerKept& kept, DeviceScratch& scratch) const;
  bool GateUpBackward(const DevicePass& pass, const FastLayer::Until& until, const at::Tensor& dx,
                      DeviceLayerKept& kept, DeviceScratch& scratch) const;
  bool OutBackward(const DevicePass& pass, const FastLayer::Until& until, const at::Tensor& dx,
                   DeviceLayerKept& kept, DeviceScratch& scratch) const;
  void QkvBackward(const DevicePass& pass, const FastLayer::Until& until, const at::Tensor& dx,
                   DeviceLayerKept& kept, DeviceScratch& scratch) const;

  const LlamaConfig& config_;
  const DeviceBaseLayer& base_;
  const DeviceMath& math_;
  int64_t index_;
  DeviceAttention attention_;
  std::vector<DeviceGroup> groups_;  // by Stage
};

}  // namespace evolora
