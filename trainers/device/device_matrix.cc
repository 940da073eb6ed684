#include "device/device_matrix.h"

#include <algorithm>
#include <utility>

#include "ATen/Functions.h"

namespace evolora {
namespace {

BlockStorage StorageOf(BlockForm form) {
  switch (form) {
    case BlockForm::kBf16:
      return BlockStorage::kBFloat16;
    case BlockForm::kInt8:
      return BlockStorage::kInt8;
    case BlockForm::kQ4:
      return BlockStorage::kQ4;
    default:
      break;
  }
  TORCH_CHECK(false, "DeviceMatrix: blocks of ", BlockFormName(form), " are not widened there");
}

// The bytes on the host.
at::Tensor BytesOf(const CompactMatrix& from) {
  return at::from_blob(const_cast<uint8_t*>(from.data()), {from.bytes()}, at::kByte);
}

// Of bf16 the blocks are the values; the last block of a row is filled up.
at::Tensor DenseBf16(const CompactMatrix& from, const at::TensorOptions& options) {
  at::Tensor dense = at::empty({from.out_features(), from.in_features()}, options);
  const at::Tensor rows = BytesOf(from).view(at::kBFloat16).view({from.out_features(), -1});
  dense.copy_(rows.narrow(1, 0, from.in_features()));
  return dense;
}

}  // namespace

DeviceMatrix::DeviceMatrix(at::Tensor dense)
    : out_(dense.size(0)), in_(dense.size(1)), dense_(std::move(dense)) {}

DeviceMatrix::DeviceMatrix(const DeviceMath& math, const CompactMatrix& from,
                           std::shared_ptr<WideBuffer> wide)
    : out_(from.out_features()), in_(from.in_features()), math_(&math), wide_(std::move(wide)) {
  storage_ = StorageOf(from.form());
  if (storage_ == BlockStorage::kBFloat16 && math.dtype() == at::kBFloat16) {
    dense_ = DenseBf16(from, math.options());
    return;
  }
  blocks_ = at::empty({from.bytes()}, math.options().dtype(at::kByte));
  blocks_.copy_(BytesOf(from));
}

void DeviceMatrix::WidenInto(const at::Tensor& y, int64_t first, const int32_t* ids) const {
  const uint8_t* blocks = blocks_.const_data_ptr<uint8_t>() + first * (blocks_.size(0) / out_);
  math_->WidenRows({.storage = storage_, .blocks = blocks, .ids = ids}, y);
}

at::Tensor DeviceMatrix::Rows(int64_t first, int64_t count) const {
  if (dense_.defined()) return dense_.narrow(0, first, count);
  const at::Tensor& wide = wide_->buffer.Reserve({count, in_}, math_->options());
  WidenInto(wide, first, /*ids=*/nullptr);
  return wide;
}

at::Tensor DeviceMatrix::Lookup(const at::Tensor& ids) const {
  if (dense_.defined()) return dense_.index_select(0, ids);
  const at::Tensor rows = at::empty({ids.size(0), in_}, math_->options());
  WidenInto(rows, /*first=*/0, ids.const_data_ptr<int32_t>());
  return rows;
}

int64_t DeviceMatrix::rows_at_once() const {
  if (dense_.defined()) return out_;
  return std::clamp<int64_t>(wide_->values_at_once / in_, 1, out_);
}

void DeviceMatrix::Outputs(const at::Tensor& x, const at::Tensor& y) const {
  const int64_t at_once = rows_at_once();
  for (int64_t first = 0; first < out_; first += at_once) {
    const int64_t count = std::min(at_once, out_ - first);
    at::Tensor own = y.narrow(1, first, count);
    at::mm_out(own, x, Rows(first, count).t());
  }
}

void DeviceMatrix::Inputs(const at::Tensor& dy, const at::Tensor& dx) const {
  const int64_t at_once = rows_at_once();
  at::Tensor out = dx;
  at::mm_out(out, dy.narrow(1, 0, at_once), Rows(0, at_once));
  for (int64_t first = at_once; first < out_; first += at_once) {
    const int64_t count = std::min(at_once, out_ - first);
    out.addmm_(dy.narrow(1, first, count), Rows(first, count));
  }
}

}  // namespace evolora
