#include "device/array_upload.h"

#include "ATen/ops/zeros.h"

namespace evolora {
namespace {

constexpr int64_t kAlignment = 16;

// Where each array begins, and where the last one ends.
std::vector<int64_t> BeginsOf(absl::Span<const ArrayUpload::Size> sizes) {
  std::vector<int64_t> begins = {0};
  for (const ArrayUpload::Size& size : sizes) {
    const int64_t bytes = size.count * static_cast<int64_t>(c10::elementSize(size.type));
    begins.push_back((begins.back() + bytes + kAlignment - 1) / kAlignment * kAlignment);
  }
  return begins;
}

}  // namespace

ArrayUpload::Staging::Staging(absl::Span<const Size> sizes, at::Device device)
    : sizes_(sizes.begin(), sizes.end()),
      begins_(BeginsOf(sizes)),
      bytes_(at::zeros({begins_.back()}, at::dtype(at::kByte).pinned_memory(device.is_cuda()))) {}

void ArrayUpload::Move(const Staging& staging, at::Device device) {
  at::Tensor bytes = buffer_.Reserve(staging.bytes_.sizes(), at::device(device).dtype(at::kByte));
  bytes.copy_(staging.bytes_, /*non_blocking=*/true);
}

std::vector<at::Tensor> ArrayUpload::Views(absl::Span<const Size> sizes) const {
  const std::vector<int64_t> begins = BeginsOf(sizes);
  std::vector<at::Tensor> views;
  for (size_t i = 0; i < sizes.size(); ++i) {
    const int64_t bytes = sizes[i].count * static_cast<int64_t>(c10::elementSize(sizes[i].type));
    views.push_back(buffer_.get().narrow(0, begins[i], bytes).view(sizes[i].type));
  }
  return views;
}

}  // namespace evolora
