#include "device/device_math.h"

#include <cstring>

#include "ATen/Context.h"
#include "c10/core/Stream.h"
#include "c10/core/impl/VirtualGuardImpl.h"
#include "c10/util/Exception.h"

namespace evolora {
namespace {

void Check(KernelError error, const char* kernel) {
  // Of a first launch, which brings the kernel's code onto the device.
  if (error != nullptr && std::strcmp(error, "out of memory") == 0) {
    C10_THROW_ERROR(OutOfMemoryError, error);
  }
  TORCH_CHECK(error == nullptr, kernel, ": ", error);
}

float* Floats(const at::Tensor& tensor) { return tensor.mutable_data_ptr<float>(); }
const float* ConstFloats(const at::Tensor& tensor) { return tensor.const_data_ptr<float>(); }

}  // namespace

DeviceMath::DeviceMath(at::Device device, at::ScalarType dtype)
    : device_(device), dtype_(dtype), kernels_(device.is_cuda() ? CudaKernels() : &HostKernels()) {
  TORCH_CHECK(kernels_ != nullptr, "no kernels for ", device);
  // An environment variable of NVIDIA's containers turns it on: fp32 would be TF32 there.
  if (device.is_cuda()) at::globalContext().setAllowTF32CuBLAS(false);
}

void* DeviceMath::stream() const {
  if (!device_.is_cuda()) return nullptr;
  return c10::impl::VirtualGuardImpl(device_.type()).getStream(device_).native_handle();
}

void DeviceMath::RmsNorm(const at::Tensor& x, const at::Tensor& weight, double eps,
                         const KeptNorm& kept, const at::Tensor& y) const {
  Check(kernels_->rms_norm({.type = type(),
                            .x = x.const_data_ptr(),
                            .weight = ConstFloats(weight),
                            .rows = x.size(0),
                            .width = x.size(1),
                            .eps = static_cast<float>(eps),
                            .unit = kept.unit.mutable_data_ptr(),
                            .factors = Floats(kept.factors),
                            .y = y.mutable_data_ptr()},
                           stream()),
        "rms_norm");
}

void DeviceMath::RmsNormBackward(const at::Tensor& dy, const at::Tensor& weight,
                                 const KeptNorm& kept, const at::Tensor& dx) const {
  Check(kernels_->rms_norm_backward({.type = type(),
                                     .dy = dy.const_data_ptr(),
                                     .weight = ConstFloats(weight),
                                     .unit = kept.unit.const_data_ptr(),
                                     .factors = ConstFloats(kept.factors),
                                     .rows = dy.size(0),
                                     .width = dy.size(1),
                                     .dx = dx.mutable_data_ptr()},
                                    stream()),
        "rms_norm_backward");
}

void DeviceMath::RotateHeads(RotateHeadsArgs args, const at::Tensor& qkv) const {
  args.type = type();
  args.qkv = qkv.mutable_data_ptr();
  args.rows = qkv.size(0);
  args.stride = qkv.size(1);
  Check(kernels_->rotate_heads(args, stream()), "rotate_heads");
}

void DeviceMath::RotateHeadsBackward(RotateHeadsArgs args, const at::Tensor& d_qkv) const {
  args.type = type();
  args.qkv = d_qkv.mutable_data_ptr();
  args.rows = d_qkv.size(0);
  args.stride = d_qkv.size(1);
  Check(kernels_->rotate_heads_backward(args, stream()), "rotate_heads_backward");
}

void DeviceMath::SwiGlu(const at::Tensor& gate_up, const at::Tensor& act) const {
  Check(kernels_->swiglu({.type = type(),
                          .gate_up = gate_up.mutable_data_ptr(),
                          .act = act.mutable_data_ptr(),
                          .rows = act.size(0),
                          .width = act.size(1)},
                         stream()),
        "swiglu");
}

void DeviceMath::SwiGluBackward(const at::Tensor& gate_up, const at::Tensor& d_act,
                                const at::Tensor& act) const {
  Check(kernels_->swiglu_backward({.type = type(),
                                   .gate_up = gate_up.mutable_data_ptr(),
                                   .d_act = d_act.const_data_ptr(),
                                   .act = act.mutable_data_ptr(),
                                   .rows = act.size(0),
                                   .width = act.size(1)},
                                  stream()),
        "swiglu_backward");
}

void DeviceMath::MaskFeatures(MaskFeaturesArgs args, const at::Tensor& x,
                              const at::Tensor& y) const {
  args.type = type();
  args.x = x.const_data_ptr();
  args.rows = x.size(0);
  args.width = x.size(1);
  args.y = y.mutable_data_ptr();
  Check(kernels_->mask_features(args, stream()), "mask_features");
}

void DeviceMath::ScaleColumns(const at::Tensor& z, const at::Tensor& factors, bool add,
                              const at::Tensor& y) const {
  Check(kernels_->scale_columns({.type = type(),
                                 .z = z.const_data_ptr(),
                                 .factors = ConstFloats(factors),
                                 .rows = z.size(0),
                                 .width = z.size(1),
                                 .add = add,
                                 .y = y.mutable_data_ptr()},
                                stream()),
        "scale_columns");
}

void DeviceMath::ScaleColumnsBackward(const at::Tensor& dy, const at::Tensor& factors,
                                      const at::Tensor& z, const at::Tensor& partials) const {
  Check(kernels_->scale_columns_backward({.type = type(),
                                          .dy = dy.const_data_ptr(),
                                          .factors = ConstFloats(factors),
                                          .rows = dy.size(0),
                                          .width = dy.size(1),
                                          .z = z.mutable_data_ptr(),
                                          .partials = Floats(partials)},
                                         stream()),
        "scale_columns_backward");
}

void DeviceMath::SumRows(const at::Tensor& x, const TokenPlaces& places,
                         const at::Tensor& y) const {
  Check(kernels_->sum_rows({.type = type(),
                            .x = x.const_data_ptr(),
                            .first = places.first.const_data_ptr<int32_t>(),
                            .places = places.places.const_data_ptr<int32_t>(),
                            .rows = y.size(0),
                            .width = y.size(1),
                            .stride = y.stride(0),
                            .y = y.mutable_data_ptr()},
                           stream()),
        "sum_rows");
}

void DeviceMath::WidenRows(WidenRowsArgs args, const at::Tensor& y) const {
  args.type = type();
  args.rows = y.size(0);
  args.width = y.size(1);
  args.y = y.mutable_data_ptr();
  Check(kernels_->widen_rows(args, stream()), "widen_rows");
}

void DeviceMath::CrossEntropy(CrossEntropyArgs args, const at::Tensor& logits) const {
  args.type = type();
  args.logits = logits.mutable_data_ptr();
  args.rows = logits.size(0);
  args.vocabulary = logits.size(1);
  Check(kernels_->cross_entropy(args, stream()), "cross_entropy");
}

void DeviceMath::LabelLogProbs(LabelLogProbsArgs args, const at::Tensor& logits) const {
  args.type = type();
  args.logits = logits.const_data_ptr();
  args.rows = logits.size(0);
  args.vocabulary = logits.size(1);
  Check(kernels_->label_log_probs(args, stream()), "label_log_probs");
}

void DeviceMath::LabelGradient(LabelGradientArgs args, const at::Tensor& logits) const {
  args.type = type();
  args.logits = logits.mutable_data_ptr();
  args.rows = logits.size(0);
  args.vocabulary = logits.size(1);
  Check(kernels_->label_gradient(args, stream()), "label_gradient");
}

void DeviceMath::PolicyLoss(const PolicyLossArgs& args) const {
  Check(kernels_->policy_loss(args, stream()), "policy_loss");
}

void DeviceMath::DpoLoss(const DpoLossArgs& args) const {
  Check(kernels_->dpo_loss(args, stream()), "dpo_loss");
}

void DeviceMath::DistillTop(DistillTopArgs args, const at::Tensor& logits) const {
  args.type = type();
  args.logits = logits.mutable_data_ptr();
  args.rows = logits.size(0);
  args.vocabulary = logits.size(1);
  Check(kernels_->distill_top(args, stream()), "distill_top");
}

void DeviceMath::DistillWhole(DistillWholeArgs args, const at::Tensor& teacher,
                              const at::Tensor& logits) const {
  args.type = type();
  args.logits = logits.mutable_data_ptr();
  args.teacher = teacher.const_data_ptr();
  args.rows = logits.size(0);
  args.vocabulary = logits.size(1);
  Check(kernels_->distill_whole(args, stream()), "distill_whole");
}

void DeviceMath::GradientNorm(const GradientNormArgs& args) const {
  Check(kernels_->gradient_norm(args, stream()), "gradient_norm");
}

void DeviceMath::AdamW(const AdamWArgs& args) const {
  Check(kernels_->adamw(args, stream()), "adamw");
}

}  // namespace evolora
