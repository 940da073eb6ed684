#pragma once

#include <cstdint>

#include "ATen/core/Tensor.h"
#include "evolora/device/kernels.h"

namespace evolora {

// Where each token stands in a list of tokens: token t at places[first[t]] .. places[first[t + 1] -
// 1], ascending.
struct TokenPlaces {
  at::Tensor first;   // [N + 1] int32
  at::Tensor places;  // int32
};

// Where the device path computes, in which numbers, and its kernels over tensors. Activations and
// the frozen weights of matrix products have one type, `dtype`; norm weights, adapters, their
// gradients and losses are fp32. Tensors are contiguous unless said. Throws as LibTorch does.
class DeviceMath {
 public:
  // `device` is open (open_device.h); dtype is kFloat or kBFloat16.
  DeviceMath(at::Device device, at::ScalarType dtype);

  at::Device device() const { return device_; }
  at::ScalarType dtype() const { return dtype_; }
  // Of activations, and of fp32 tensors beside them.
  at::TensorOptions options() const { return at::device(device_).dtype(dtype_); }
  at::TensorOptions fp32() const { return at::device(device_).dtype(at::kFloat); }

  // What a norm leaves for its backward pass: [rows, width], [rows].
  struct KeptNorm {
    at::Tensor unit;
    at::Tensor factors;
  };
  // y [rows, width] = the norm of x; y may be x.
  void RmsNorm(const at::Tensor& x, const at::Tensor& weight, double eps, const KeptNorm& kept,
               const at::Tensor& y) const;
  // dx += the gradient.
  void RmsNormBackward(const at::Tensor& dy, const at::Tensor& weight, const KeptNorm& kept,
                       const at::Tensor& dx) const;

  // `args` without type and without what tensors say: see RotateHeadsArgs.
  void RotateHeads(RotateHeadsArgs args, const at::Tensor& qkv) const;
  void RotateHeadsBackward(RotateHeadsArgs args, const at::Tensor& d_qkv) const;

  // act [rows, width] from gate_up [rows, 2 * width].
  void SwiGlu(const at::Tensor& gate_up, const at::Tensor& act) const;
  // gate_up becomes its gradient; act is computed again.
  void SwiGluBackward(const at::Tensor& gate_up, const at::Tensor& d_act,
                      const at::Tensor& act) const;

  // y = or += x with features dropped; `args` without type, sizes and what tensors say.
  void MaskFeatures(MaskFeaturesArgs args, const at::Tensor& x, const at::Tensor& y) const;
  // y = or += z * factors; see ScaleColumnsBackwardArgs for the gradient.
  void ScaleColumns(const at::Tensor& z, const at::Tensor& factors, bool add,
                    const at::Tensor& y) const;
  void ScaleColumnsBackward(const at::Tensor& dy, const at::Tensor& factors, const at::Tensor& z,
                            const at::Tensor& partials) const;

  // y[t], a row which may have a stride = the sum of the rows of x at the places of token t.
  void SumRows(const at::Tensor& x, const TokenPlaces& places, const at::Tensor& y) const;

  // y [rows, width] = rows of a matrix in few bits; `args` without type, sizes and y.
  void WidenRows(WidenRowsArgs args, const at::Tensor& y) const;

  // `args` without type, logits and sizes: see CrossEntropyArgs.
  void CrossEntropy(CrossEntropyArgs args, const at::Tensor& logits) const;

  // `args` without type, logits and sizes: see label_kernels.h.
  void LabelLogProbs(LabelLogProbsArgs args, const at::Tensor& logits) const;
  void LabelGradient(LabelGradientArgs args, const at::Tensor& logits) const;
  void PolicyLoss(const PolicyLossArgs& args) const;
  void DpoLoss(const DpoLossArgs& args) const;
  void DistillTop(DistillTopArgs args, const at::Tensor& logits) const;
  void DistillWhole(DistillWholeArgs args, const at::Tensor& teacher,
                    const at::Tensor& logits) const;

  void GradientNorm(const GradientNormArgs& args) const;
  void AdamW(const AdamWArgs& args) const;

 private:
  ElementType type() const {
    return dtype_ == at::kFloat ? ElementType::kFloat32 : ElementType::kBFloat16;
  }
  void* stream() const;

  at::Device device_;
  at::ScalarType dtype_;
  const DeviceKernels* kernels_;
};

}  // namespace evolora
