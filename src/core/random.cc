#include "evolora/core/random.h"

#include <cstddef>
#include <numeric>
#include <string>
#include <utility>

#include "evolora/core/check.h"
#include "evolora/core/sha256.h"

namespace evolora {

uint64_t Random::NextU64() {
  uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

double Random::NextDouble() { return static_cast<double>(NextU64() >> 11) * 0x1.0p-53; }

uint64_t Random::NextBelow(uint64_t bound) {
  EVOLORA_CHECK(bound > 0, "NextBelow needs a positive bound");
  const uint64_t first_fair =
      (0 - bound) % bound;  // 2^64 mod bound: values below it are drawn again
  for (;;) {
    const uint64_t value = NextU64();
    if (value >= first_fair) return value % bound;
  }
}

std::vector<int64_t> Random::Permutation(int64_t n) {
  EVOLORA_CHECK(n >= 0, "a permutation has a size of at least 0");
  std::vector<int64_t> order(static_cast<size_t>(n));
  std::iota(order.begin(), order.end(), int64_t{0});
  for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[NextBelow(i)]);
  return order;
}

uint64_t DeriveSeed(uint64_t seed, absl::string_view name) {
  const std::string hex =
      Sha256().Update(std::to_string(seed)).Update("/").Update(name).FinishHex();
  return std::stoull(hex.substr(0, 16), nullptr, 16);
}

}  // namespace evolora
