#include "adapter_dropout.h"

#include <cmath>

#include "evolora/core/random.h"
#include "evolora/device/dropout_draw.h"

namespace evolora {
namespace {

// use(i, 32 random bits) for i in [0, n): two features a word, the low half first.
template <typename Use>
void ForFeatures(uint64_t module_key, uint64_t token_key, int64_t n, const Use& use) {
  const uint64_t stream = DropoutStream(module_key, token_key);
  for (int64_t i = 0; i < n; i += 2) {
    const uint64_t bits = DropoutPair(stream, i / 2);
    use(i, bits & 0xffffffffu);
    if (i + 1 < n) use(i + 1, bits >> 32);
  }
}

}  // namespace

AdapterDropout::AdapterDropout(double rate, uint64_t seed)
    : seed_(DeriveSeed(seed, "dropout")),
      threshold_(static_cast<uint64_t>(std::llround(rate * 0x1.0p32))),
      kept_(static_cast<float>(1 / (1 - rate))) {}

uint64_t AdapterDropout::ModuleKey(absl::string_view path) const { return DeriveSeed(seed_, path); }

void AdapterDropout::Mask(uint64_t module_key, uint64_t token_key, int64_t n, const float* x,
                          float* y) const {
  ForFeatures(module_key, token_key, n,
              [&](int64_t i, uint64_t bits) { y[i] = bits < threshold_ ? 0.0f : x[i] * kept_; });
}

void AdapterDropout::AddMasked(uint64_t module_key, uint64_t token_key, int64_t n, const float* x,
                               float* y) const {
  ForFeatures(module_key, token_key, n,
              [&](int64_t i, uint64_t bits) { y[i] += bits < threshold_ ? 0.0f : x[i] * kept_; });
}

uint64_t DropoutTokenKey(int64_t step, int64_t row, int64_t copy, int64_t position) {
  uint64_t key = 0;
  for (const int64_t part : {step, row, copy, position}) {
    key = DrawOf(key ^ static_cast<uint64_t>(part));
  }
  return key;
}

std::vector<uint64_t> DropoutTokenKeys(int64_t step, const TokenLayout& layout,
                                       std::unordered_map<int64_t, int64_t>& copies) {
  std::vector<uint64_t> keys;
  for (const TokenLayout::Segment& segment : layout.segments) {
    const int64_t copy = copies[segment.row]++;
    for (int64_t t = 0; t < segment.num_tokens; ++t) {
      keys.push_back(DropoutTokenKey(step, segment.row, copy, segment.first_position + t));
    }
  }
  return keys;
}

}  // namespace evolora
