#include "flat_parameters.h"

#include "ATen/ops/zeros.h"

namespace evolora {

void FlatParameters::AllocateBuffers(int64_t total) {
  // Behind the last value kernels may read whole vectors.
  constexpr int64_t kBehind = 64;
  for (at::Tensor* buffer : {&value, &gradient, &moment1, &moment2}) {
    *buffer = at::zeros({total + kBehind}, at::kFloat).narrow(0, 0, total);
  }
}

void FlatParameters::MoveBuffers(c10::Device device) {
  for (at::Tensor* buffer : {&value, &gradient, &moment1, &moment2}) *buffer = buffer->to(device);
}

at::Tensor LeafOver(const at::Tensor& value_view, const at::Tensor& gradient_view) {
  at::Tensor tensor = value_view.detach();
  tensor.set_requires_grad(true);
  tensor.mutable_grad() = gradient_view;
  return tensor;
}

ParameterGroup GroupOfRange(const FlatParameters& flat, int64_t begin, int64_t count) {
  return {.values = {flat.value.narrow(0, begin, count)},
          .gradients = {flat.gradient.narrow(0, begin, count)},
          .moments1 = {flat.moment1.narrow(0, begin, count)},
          .moments2 = {flat.moment2.narrow(0, begin, count)}};
}

}  // namespace evolora
