#pragma once

#include <cstdint>
#include <memory>

namespace evolora {

struct FreeFloats {
  void operator()(float* data) const;
};
using FloatMemory = std::unique_ptr<float[], FreeFloats>;

// `size` uninitialised floats, aligned to 64 bytes; from 2 MiB on aligned to a huge page and, where
// the system grants them, on huge pages: the first touch of a gigabyte costs 500 page faults
// instead of 262,144. Throws std::bad_alloc.
FloatMemory AllocateFloats(int64_t size);

}  // namespace evolora
