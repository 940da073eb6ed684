#include "device/device_group.h"

#include <utility>

#include "ATen/Functions.h"

namespace evolora {

DeviceGroup::DeviceGroup(const DeviceMath& math, at::Tensor weight, at::Tensor bias,
                         const std::vector<Part>& parts)
    : weight_(std::move(weight)), bias_(std::move(bias)) {
  int64_t out_offset = 0;
  for (const Part& part : parts) {
    if (part.lora != nullptr) {
      const int64_t rank = part.lora->a.size(0);
      parts_.push_back({part.lora, out_offset, part.out_features, rank_, rank,
                        at::empty({part.out_features, rank}, math.options())});
      rank_ += rank;
    }
    out_offset += part.out_features;
  }
  if (adapted()) a_ = at::empty({rank_, in_features()}, math.options());
}

void DeviceGroup::AppendCopies(Copies& copies) const {
  for (const AdaptedPart& part : parts_) {
    copies.to.push_back(a_.narrow(0, part.rank_offset, part.rank));
    copies.from.push_back(part.lora->a.detach());
    copies.to.push_back(part.b);
    copies.from.push_back(part.lora->b.detach());
  }
}

void DeviceGroup::Forward(const at::Tensor& x, const at::Tensor& y, Store store,
                          const at::Tensor& low) const {
  if (store == Store::kAdd) {
    y.addmm_(x, weight_.t());
    if (bias_.defined()) y.add_(bias_);
  } else {
    at::Tensor out = y;
    if (bias_.defined()) {
      at::addmm_out(out, bias_, x, weight_.t());
    } else {
      at::mm_out(out, x, weight_.t());
    }
  }
  if (!adapted()) return;
  at::Tensor low_out = low;
  at::mm_out(low_out, x, a_.t());
  for (const AdaptedPart& part : parts_) {
    part.Outputs(y).addmm_(part.Ranks(low), part.b.t(), /*beta=*/1, part.lora->scale);
  }
}

void DeviceGroup::LowRankGradient(const at::Tensor& dy, const at::Tensor& d_low) const {
  for (const AdaptedPart& part : parts_) {
    part.Ranks(d_low).addmm_(part.Outputs(dy), part.b, /*beta=*/0, part.lora->scale);
  }
}

void DeviceGroup::InputGradient(const at::Tensor& dy, const at::Tensor& d_low,
                                const at::Tensor& dx) const {
  at::Tensor out = dx;
  at::mm_out(out, dy, weight_);
  if (adapted()) out.addmm_(d_low, a_);
}

void DeviceGroup::ParameterGradients(const at::Tensor& x, const at::Tensor& column_scale,
                                     const at::Tensor& low, const at::Tensor& dy,
                                     const at::Tensor& d_low) const {
  if (!adapted()) return;
  const at::Tensor d_a = at::mm(d_low.t(), x);  // [rank, in]
  for (const AdaptedPart& part : parts_) {
    const at::Tensor own = d_a.narrow(0, part.rank_offset, part.rank);
    const at::Tensor& gradient = part.lora->a.grad();
    if (column_scale.defined()) {
      gradient.addcmul_(own, column_scale);
    } else {
      gradient.add_(own);
    }
    const at::Tensor d_b = at::mm(part.Outputs(dy).t(), part.Ranks(low));  // [out, rank]
    part.lora->b.grad().add_(d_b, part.lora->scale);
  }
}

}  // namespace evolora
