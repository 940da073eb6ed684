#pragma once

#include <cstdint>

#include "evolora/device/kernels.h"
#include "kernel_math.h"

// What dispatch needs for every kernel: threads, element types and the width of an access.
namespace evolora {

constexpr int kWarp = 32;
constexpr int kRowThreads = 256;
constexpr int kVocabularyThreads = 512;
constexpr int64_t kAccessBytes = 16;

// Whether rows of `width` elements at `pointers` can be read in accesses of kAccessBytes.
template <class T, class... Pointers>
bool Packs(int64_t width, Pointers... pointers) {
  const bool whole = width % (kAccessBytes / static_cast<int64_t>(sizeof(T))) == 0;
  return whole && ((reinterpret_cast<uintptr_t>(pointers) % kAccessBytes == 0) && ...);
}

template <class T>
const T* As(const void* data) {
  return static_cast<const T*>(data);
}
template <class T>
T* As(void* data) {
  return static_cast<T*>(data);
}

// Calls body(zero of the element type).
template <class Body>
KernelError ByType(ElementType type, Body body) {
  return type == ElementType::kFloat32 ? body(float{}) : body(BFloat16{});
}

}  // namespace evolora
