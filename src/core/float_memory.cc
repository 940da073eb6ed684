#include "evolora/core/float_memory.h"

#include <sys/mman.h>

#include <cstdlib>
#include <new>

namespace evolora {
namespace {

constexpr size_t kLine = 64;
constexpr size_t kHugePage = size_t{2} << 20;

}  // namespace

void FreeFloats::operator()(float* data) const { std::free(data); }

FloatMemory AllocateFloats(int64_t size) {
  const size_t bytes = static_cast<size_t>(size) * sizeof(float);
  const bool large = bytes >= kHugePage;
  void* memory = nullptr;
  if (posix_memalign(&memory, large ? kHugePage : kLine, bytes) != 0) throw std::bad_alloc();
  // Best effort: without it the memory is the same, only slower to touch first.
  if (large) madvise(memory, bytes / kHugePage * kHugePage, MADV_HUGEPAGE);
  return FloatMemory(static_cast<float*>(memory));
}

}  // namespace evolora
