#pragma once

#include <cstdint>
#include <vector>

#include "ATen/core/Tensor.h"
#include "adapter_dropout.h"
#include "device/device_base.h"
#include "device/device_math.h"
#include "device/device_matrix.h"
#include "device/tensor_buffer.h"
#include "evolora/model/lora_tensors.h"

namespace evolora {

// AdaptedGroup (adapted_group.h) over tensors on a device: frozen linear layers that read the same
// input, with their adapters. All products are GEMMs of LibTorch (cuBLAS on CUDA).
//   low = x A^T   (the A matrices stacked)      z = x W^T + scale low B^T, part by part
//   d_low = scale dz B                          dx = dz W + d_low A
//   dA += d_low^T x                             dB += scale dz^T low
//   dW += dz^T x                                d bias += sum over rows of dz      (where trained)
// y = z + bias, and dz = dy, but for a part with magnitude m (DoRA): y = z m / n + bias, n the
// norms of the rows of W + scale B A without gradient, dz = dy m / n, dm += sum over rows of dy z /
// n. With dropout the A of each part reads x with that part's own features dropped (x f): low = (x
// f) A^T, dA += d_low^T (x f), dx = dz W + f (d_low A). Matrices have the math's dtype, but the
// adapters' tensors, their gradients and norms are fp32.
class DeviceGroup {
 public:
  struct Part {
    int64_t out_features = 0;
    const LoraTensor* lora = nullptr;  // null: not adapted; outlives the group
    uint64_t dropout_key = 0;          // AdapterDropout::ModuleKey
  };
  // weight [out, in]: the parts' rows one after the other; bias [out] or undefined. `math` and
  // `dropout` (null: none; not beside magnitudes) outlive the group.
  // `gradients`: where those of the weight's parts and biases are added.
  DeviceGroup(const DeviceMath& math, DeviceMatrix weight, at::Tensor bias,
              const std::vector<Part>& parts, const AdapterDropout* dropout,
              DeviceBaseLayer::GroupGradients gradients = {});

  bool adapted() const { return rank_ > 0; }
  bool trained() const {
    return adapted() || !gradients_.weights.empty() || !gradients_.biases.empty();
  }
  int64_t rank() const { return rank_; }  // of all parts together
  int64_t in_features() const { return weight_.in_features(); }
  int64_t out_features() const { return weight_.out_features(); }

  // The adapters' values, which the group keeps in its dtype.
  void AppendCopies(DeviceCopies& copies) const;
  // m / n of the present values: when the copies are made.
  void UpdateMagnitudes() const;

  // What Forward leaves for the gradients of the same rows.
  struct Kept {
    TensorBuffer low;      // [rows, rank()]
    TensorBuffer outputs;  // [rows, out] z, where a part has a magnitude
  };
  // The rows that a call is about.
  struct Rows {
    bool bare = false;        // without the adapters: for a pass that keeps nothing
    at::Tensor dropout_keys;  // [rows] int64; undefined: nothing is dropped
  };
  // y [rows, out] = the outputs for x [rows, in], or y += them. `scratch` is worked with, here and
  // below.
  enum class Store { kSet, kAdd };
  void Forward(const at::Tensor& x, const Rows& rows, const at::Tensor& y, Store store, Kept& kept,
               TensorBuffer& scratch) const;

  // dz [rows, out] from dy; adds to the gradients of the magnitudes. Call it once: kept.outputs
  // becomes dz. Without magnitudes it is dy itself.
  at::Tensor OutputGradient(const at::Tensor& dy, Kept& kept) const;
  // d_low [rows, rank()] from dz [rows, out].
  void LowRankGradient(const at::Tensor& dz, const at::Tensor& d_low) const;
  // dx [rows, in].
  void InputGradient(const at::Tensor& dz, const at::Tensor& d_low, const Rows& rows,
                     const at::Tensor& dx, TensorBuffer& scratch) const;
  // Adds to the gradients of the adapters, the weight and the bias. The input was x * column_scale
  // [in] (undefined: x).
  void ParameterGradients(const at::Tensor& x, const at::Tensor& column_scale, const Rows& rows,
                          const Kept& kept, const at::Tensor& dz, const at::Tensor& d_low,
                          TensorBuffer& scratch) const;

 private:
  struct AdaptedPart {
    const LoraTensor* lora;
    int64_t out_offset;
    int64_t out_features;
    int64_t rank_offset;
    int64_t rank;
    uint64_t dropout_key;
    at::Tensor b;  // [out, rank], in the group's dtype
    at::Tensor Outputs(const at::Tensor& y) const { return y.narrow(1, out_offset, out_features); }
    at::Tensor Ranks(const at::Tensor& low) const { return low.narrow(1, rank_offset, rank); }
    at::Tensor A(const at::Tensor& stacked) const { return stacked.narrow(0, rank_offset, rank); }
  };
  bool has_magnitudes() const { return factors_.defined(); }
  bool Drops(const Rows& rows) const { return dropout_ != nullptr && rows.dropout_keys.defined(); }
  void AddLowRank(const at::Tensor& x, const Rows& rows, const at::Tensor& z, Kept& kept,
                  TensorBuffer& scratch) const;
  void AddBaseGradients(const at::Tensor& x, const at::Tensor& column_scale,
                        const at::Tensor& dz) const;
  at::Tensor Masked(const AdaptedPart& part, const at::Tensor& x, const Rows& rows,
                    TensorBuffer& scratch) const;
  void MaskInto(const AdaptedPart& part, const at::Tensor& x, const Rows& rows, bool add,
                const at::Tensor& y) const;

  const DeviceMath& math_;
  DeviceMatrix weight_;
  at::Tensor bias_;
  const AdapterDropout* dropout_;
  DeviceBaseLayer::GroupGradients gradients_;
  std::vector<AdaptedPart> parts_;  // the adapted ones
  int64_t rank_ = 0;
  at::Tensor a_;                // [rank, in]
  at::Tensor norms_, factors_;  // [out] fp32: n, m / n; undefined: no part has a magnitude
};

}  // namespace evolora
