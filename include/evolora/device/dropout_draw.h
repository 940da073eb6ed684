#pragma once

#include <cstdint>

#include "evolora/device/host_device.h"

namespace evolora {

constexpr uint64_t kDrawStride = 0x9e3779b97f4a7c15u;

// SplitMix64 of a counter: 64 random bits.
EVOLORA_HOST_DEVICE inline uint64_t DrawOf(uint64_t counter) {
  uint64_t z = counter + kDrawStride;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

// Where the draws of one token in one module begin.
EVOLORA_HOST_DEVICE inline uint64_t DropoutStream(uint64_t module_key, uint64_t token_key) {
  return DrawOf(module_key ^ token_key);
}
// The draws of the features 2 * pair, in the low 32 bits, and 2 * pair + 1.
EVOLORA_HOST_DEVICE inline uint64_t DropoutPair(uint64_t stream, int64_t pair) {
  return DrawOf(stream + static_cast<uint64_t>(pair) * kDrawStride);
}

}  // namespace evolora
