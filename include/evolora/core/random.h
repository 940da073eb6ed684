#pragma once

#include <cstdint>
#include <vector>

#include "absl/strings/string_view.h"

namespace evolora {

// SplitMix64 (Steele, Lea, Flood 2014): small, seedable, equal on every platform.
// Not thread-safe; give each consumer its own stream by DeriveSeed.
class Random {
 public:
  explicit Random(uint64_t seed) : state_(seed) {}
  uint64_t NextU64();
  // Uniform in [0, 1), 53 bits.
  double NextDouble();
  // Uniform in [0, bound). REQUIRES: bound > 0. Without modulo bias.
  uint64_t NextBelow(uint64_t bound);
  // Fisher-Yates permutation of 0..n-1.
  std::vector<int64_t> Permutation(int64_t n);

 private:
  uint64_t state_;
};

// An independent seed for the consumer called `name`; equal inputs give equal seeds.
uint64_t DeriveSeed(uint64_t seed, absl::string_view name);

}  // namespace evolora
