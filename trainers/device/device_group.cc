#include "device/device_group.h"

#include <algorithm>
#include <utility>

#include "ATen/Functions.h"

namespace evolora {
namespace {

// Rows of W + scale B A that are formed at once to take their norms.
constexpr int64_t kNormRows = 1024;

}  // namespace

DeviceGroup::DeviceGroup(const DeviceMath& math, DeviceMatrix weight, at::Tensor bias,
                         const std::vector<Part>& parts, const AdapterDropout* dropout,
                         DeviceBaseLayer::GroupGradients gradients)
    : math_(math),
      weight_(std::move(weight)),
      bias_(std::move(bias)),
      dropout_(dropout),
      gradients_(std::move(gradients)) {
  int64_t out_offset = 0;
  bool has_magnitude = false;
  for (const Part& part : parts) {
    if (part.lora != nullptr) {
      const int64_t rank = part.lora->a.size(0);
      parts_.push_back({part.lora, out_offset, part.out_features, rank_, rank, part.dropout_key,
                        at::empty({part.out_features, rank}, math.options())});
      rank_ += rank;
      has_magnitude = has_magnitude || part.lora->magnitude.defined();
    }
    out_offset += part.out_features;
  }
  if (adapted()) a_ = at::empty({rank_, in_features()}, math.options());
  if (!has_magnitude) return;
  norms_ = at::ones({out_features()}, math.fp32());
  factors_ = at::ones({out_features()}, math.fp32());
}

void DeviceGroup::AppendCopies(DeviceCopies& copies) const {
  for (const AdaptedPart& part : parts_) {
    copies.to.push_back(part.A(a_));
    copies.from.push_back(part.lora->a.detach());
    copies.to.push_back(part.b);
    copies.from.push_back(part.lora->b.detach());
  }
}

void DeviceGroup::UpdateMagnitudes() const {
  for (const AdaptedPart& part : parts_) {
    if (!part.lora->magnitude.defined()) continue;
    const at::Tensor a = part.lora->a.detach(), b = part.lora->b.detach();
    at::Tensor norms = norms_.narrow(0, part.out_offset, part.out_features);
    for (int64_t first = 0; first < part.out_features; first += kNormRows) {
      const int64_t count = std::min(kNormRows, part.out_features - first);
      const at::Tensor weight = weight_.Rows(part.out_offset + first, count).to(at::kFloat);
      const at::Tensor sum = at::addmm(weight, b.narrow(0, first, count), a, /*beta=*/1,
                                       /*alpha=*/part.lora->scale);
      norms.narrow(0, first, count).copy_(at::linalg_vector_norm(sum, 2, at::IntArrayRef{1}));
    }
    at::Tensor factors = factors_.narrow(0, part.out_offset, part.out_features);
    at::div_out(factors, part.lora->magnitude.detach(), norms);
  }
}

void DeviceGroup::MaskInto(const AdaptedPart& part, const at::Tensor& x, const Rows& rows, bool add,
                           const at::Tensor& y) const {
  math_.MaskFeatures(
      {.row_keys = reinterpret_cast<const uint64_t*>(rows.dropout_keys.const_data_ptr<int64_t>()),
       .module_key = part.dropout_key,
       .threshold = dropout_->threshold(),
       .kept = dropout_->kept(),
       .add = add},
      x, y);
}

// x with the part's features dropped, in `scratch`; x itself when nothing is.
at::Tensor DeviceGroup::Masked(const AdaptedPart& part, const at::Tensor& x, const Rows& rows,
                               TensorBuffer& scratch) const {
  if (!Drops(rows)) return x;
  const at::Tensor& masked = scratch.Reserve(x.sizes(), math_.options());
  MaskInto(part, x, rows, /*add=*/false, masked);
  return masked;
}

// z += scale low B^T.
void DeviceGroup::AddLowRank(const at::Tensor& x, const Rows& rows, const at::Tensor& z, Kept& kept,
                             TensorBuffer& scratch) const {
  at::Tensor low = kept.low.Reserve({x.size(0), rank_}, math_.options());
  if (!Drops(rows)) at::mm_out(low, x, a_.t());
  for (const AdaptedPart& part : parts_) {
    if (Drops(rows)) {
      part.Ranks(low).addmm_(Masked(part, x, rows, scratch), part.A(a_).t(), /*beta=*/0);
    }
    part.Outputs(z).addmm_(part.Ranks(low), part.b.t(), /*beta=*/1, part.lora->scale);
  }
}

void DeviceGroup::Forward(const at::Tensor& x, const Rows& rows, const at::Tensor& y, Store store,
                          Kept& kept, TensorBuffer& scratch) const {
  if (has_magnitudes() && !rows.bare) {
    at::Tensor z = kept.outputs.Reserve({x.size(0), out_features()}, math_.options());
    at::mm_out(z, x, weight_.Wide().t());
    AddLowRank(x, rows, z, kept, scratch);
    math_.ScaleColumns(z, factors_, store == Store::kAdd, y);
    if (bias_.defined()) y.add_(bias_);
    return;
  }
  const at::Tensor weight = weight_.Wide();
  if (store == Store::kAdd) {
    y.addmm_(x, weight.t());
    if (bias_.defined()) y.add_(bias_);
  } else {
    at::Tensor out = y;
    if (bias_.defined()) {
      at::addmm_out(out, bias_, x, weight.t());
    } else {
      at::mm_out(out, x, weight.t());
    }
  }
  if (adapted() && !rows.bare) AddLowRank(x, rows, y, kept, scratch);
}

at::Tensor DeviceGroup::OutputGradient(const at::Tensor& dy, Kept& kept) const {
  if (!has_magnitudes()) return dy;
  const at::Tensor z = kept.outputs.get();
  const at::Tensor partials =
      at::empty({(dy.size(0) + kColumnRows - 1) / kColumnRows, out_features()}, math_.fp32());
  math_.ScaleColumnsBackward(dy, factors_, z, partials);
  const at::Tensor sums = partials.sum(0).div_(norms_);
  for (const AdaptedPart& part : parts_) {
    if (!part.lora->magnitude.defined()) continue;
    part.lora->magnitude.grad().add_(sums.narrow(0, part.out_offset, part.out_features));
  }
  return z;
}

void DeviceGroup::LowRankGradient(const at::Tensor& dz, const at::Tensor& d_low) const {
  for (const AdaptedPart& part : parts_) {
    part.Ranks(d_low).addmm_(part.Outputs(dz), part.b, /*beta=*/0, part.lora->scale);
  }
}

void DeviceGroup::InputGradient(const at::Tensor& dz, const at::Tensor& d_low, const Rows& rows,
                                const at::Tensor& dx, TensorBuffer& scratch) const {
  at::Tensor out = dx;
  at::mm_out(out, dz, weight_.Wide());
  if (!adapted()) return;
  if (!Drops(rows)) {
    out.addmm_(d_low, a_);
    return;
  }
  at::Tensor own = scratch.Reserve(dx.sizes(), math_.options());
  for (const AdaptedPart& part : parts_) {
    at::mm_out(own, part.Ranks(d_low), part.A(a_));
    MaskInto(part, own, rows, /*add=*/true, out);
  }
}

void DeviceGroup::AddBaseGradients(const at::Tensor& x, const at::Tensor& column_scale,
                                   const at::Tensor& dz) const {
  int64_t first = 0;
  for (const at::Tensor& gradient : gradients_.weights) {
    const at::Tensor d_part = dz.narrow(1, first, gradient.size(0));
    if (column_scale.defined()) {
      gradient.addcmul_(at::mm(d_part.t(), x), column_scale);
    } else {
      gradient.addmm_(d_part.t(), x);
    }
    first += gradient.size(0);
  }
  first = 0;
  for (const at::Tensor& gradient : gradients_.biases) {
    gradient.add_(dz.narrow(1, first, gradient.size(0)).sum(0));
    first += gradient.size(0);
  }
}

void DeviceGroup::ParameterGradients(const at::Tensor& x, const at::Tensor& column_scale,
                                     const Rows& rows, const Kept& kept, const at::Tensor& dz,
                                     const at::Tensor& d_low, TensorBuffer& scratch) const {
  AddBaseGradients(x, column_scale, dz);
  if (!adapted()) return;
  const at::Tensor d_a = Drops(rows) ? at::Tensor() : at::mm(d_low.t(), x);  // [rank, in]
  for (const AdaptedPart& part : parts_) {
    const at::Tensor own =
        d_a.defined() ? part.A(d_a) : at::mm(part.Ranks(d_low).t(), Masked(part, x, rows, scratch));
    const at::Tensor& gradient = part.lora->a.grad();
    if (column_scale.defined()) {
      gradient.addcmul_(own, column_scale);
    } else {
      gradient.add_(own);
    }
    const at::Tensor d_b = at::mm(part.Outputs(dz).t(), part.Ranks(kept.low.get()));  // [out, rank]
    part.lora->b.grad().add_(d_b, part.lora->scale);
  }
}

}  // namespace evolora
