#include "buffer.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdlib>
#include <new>

namespace evolora {
namespace {

constexpr size_t kLine = 64;
constexpr size_t kHugePage = size_t{2} << 20;
constexpr int64_t kReadableBehind = 32;

}  // namespace

void Buffer::Free::operator()(float* data) const { std::free(data); }

float* Buffer::Reserve(int64_t size) {
  if (size <= capacity_) return data_.get();
  data_.reset();  // before the next allocation: the peak holds one of them
  capacity_ = 0;
  const size_t bytes = static_cast<size_t>(size + kReadableBehind) * sizeof(float);
  const size_t alignment = bytes >= kHugePage ? kHugePage : kLine;
  const size_t rounded = (bytes + alignment - 1) / alignment * alignment;
  void* memory = std::aligned_alloc(alignment, rounded);
  if (memory == nullptr) throw std::bad_alloc();
  if (alignment == kHugePage) madvise(memory, rounded, MADV_HUGEPAGE);  // best effort
  data_.reset(static_cast<float*>(memory));
  std::fill_n(data_.get() + size, kReadableBehind, 0.0f);
  capacity_ = size;
  return data_.get();
}

}  // namespace evolora
