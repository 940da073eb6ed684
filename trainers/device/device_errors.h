#pragma once

#include <cstdint>
#include <cstring>
#include <utility>

#include "c10/util/Exception.h"

namespace evolora {

// Runs `body`; what it throws because a device is out of memory comes out as c10::OutOfMemoryError,
// which CatchTorch knows, whoever noticed: LibTorch's allocator throws that one itself, the CUDA
// runtime fails with cudaErrorMemoryAllocation (2), cuBLAS with a status of its own.
template <typename Body>
auto NameOutOfMemory(Body&& body) -> decltype(body()) {
  constexpr int32_t kCudaErrorMemoryAllocation = 2;
  try {
    return std::forward<Body>(body)();
  } catch (const c10::OutOfMemoryError&) {
    throw;
  } catch (const c10::AcceleratorError& error) {
    if (error.get_error_code() != kCudaErrorMemoryAllocation) throw;
    C10_THROW_ERROR(OutOfMemoryError, error.what_without_backtrace());
  } catch (const c10::Error& error) {
    if (std::strstr(error.what_without_backtrace(), "CUBLAS_STATUS_ALLOC_FAILED") == nullptr) throw;
    C10_THROW_ERROR(OutOfMemoryError, error.what_without_backtrace());
  }
}

}  // namespace evolora
