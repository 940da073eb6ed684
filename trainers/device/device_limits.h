#pragma once

#include <cstdint>

namespace evolora {

// Values of the vocabulary's matrices that exist at once, about: the rest of a product waits.
struct DeviceLimits {
  int64_t logits_per_chunk = int64_t{1} << 28;
  int64_t widened_at_once = int64_t{1} << 24;  // of an embedding or head in few bits
};

}  // namespace evolora
