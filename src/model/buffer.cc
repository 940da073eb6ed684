#include "evolora/model/buffer.h"

#include <algorithm>

namespace evolora {
namespace {

constexpr int64_t kReadableBehind = 32;

}  // namespace

float* Buffer::Reserve(int64_t size) {
  if (size <= capacity_) return data_.get();
  data_.reset();  // before the next allocation: the peak holds one of them
  capacity_ = 0;
  data_ = AllocateFloats(size + kReadableBehind);
  std::fill_n(data_.get() + size, kReadableBehind, 0.0f);
  capacity_ = size;
  return data_.get();
}

}  // namespace evolora
