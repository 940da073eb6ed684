#pragma once

#include <cstdint>
#include <vector>

#include "ATen/core/Tensor.h"
#include "device/device_math.h"
#include "evolora/model/lora_tensors.h"

namespace evolora {

// AdaptedGroup (adapted_group.h) over tensors on a device: frozen linear layers that read the same
// input, with their adapters. All products are GEMMs of LibTorch (cuBLAS on CUDA).
//   low = x A^T   (the A matrices stacked)      y = x W^T + scale low B^T, part by part
//   d_low = scale dy B                          dx = dy W + d_low A
//   dA += d_low^T x                             dB += scale dy^T low
// Matrices have the math's dtype, but the adapters' tensors and gradients are fp32.
class DeviceGroup {
 public:
  struct Part {
    int64_t out_features = 0;
    const LoraTensor* lora = nullptr;  // null: not adapted; outlives the group
  };
  // weight [out, in]: the parts' rows one after the other; bias [out] or undefined.
  DeviceGroup(const DeviceMath& math, at::Tensor weight, at::Tensor bias,
              const std::vector<Part>& parts);

  bool adapted() const { return rank_ > 0; }
  int64_t rank() const { return rank_; }  // of all parts together
  int64_t in_features() const { return weight_.size(1); }
  int64_t out_features() const { return weight_.size(0); }

  // Pairs of where the group keeps its adapters' values and where they come from: to be copied
  // before the first Forward and after every update.
  struct Copies {
    std::vector<at::Tensor> to;
    std::vector<at::Tensor> from;
  };
  void AppendCopies(Copies& copies) const;

  // y [rows, out] = the outputs for x [rows, in], or y += them. low [rows, rank()] is written.
  enum class Store { kSet, kAdd };
  void Forward(const at::Tensor& x, const at::Tensor& y, Store store, const at::Tensor& low) const;

  // d_low [rows, rank()] from dy [rows, out].
  void LowRankGradient(const at::Tensor& dy, const at::Tensor& d_low) const;
  // dx [rows, in].
  void InputGradient(const at::Tensor& dy, const at::Tensor& d_low, const at::Tensor& dx) const;
  // Adds to the gradients of the adapters. The input was x * column_scale [in] (undefined: x).
  void ParameterGradients(const at::Tensor& x, const at::Tensor& column_scale,
                          const at::Tensor& low, const at::Tensor& dy,
                          const at::Tensor& d_low) const;

 private:
  struct AdaptedPart {
    const LoraTensor* lora;
    int64_t out_offset;
    int64_t out_features;
    int64_t rank_offset;
    int64_t rank;
    at::Tensor b;  // [out, rank], in the group's dtype
    at::Tensor Outputs(const at::Tensor& y) const { return y.narrow(1, out_offset, out_features); }
    at::Tensor Ranks(const at::Tensor& low) const { return low.narrow(1, rank_offset, rank); }
  };

  at::Tensor weight_, bias_;
  std::vector<AdaptedPart> parts_;  // the adapted ones
  int64_t rank_ = 0;
  at::Tensor a_;  // [rank, in]
};

}  // namespace evolora
