// Factors of products in bf16: a part of kernel_body.h, inside its unnamed namespace.

// The nearest bf16 number's bits in the low half; a NaN stays one. Not the CPU's own conversion,
// which drops subnormal numbers.
inline uint32_t RoundedBits(float x) {
  uint32_t bits;
  __builtin_memcpy(&bits, &x, sizeof bits);
  const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  return (bits & 0x7fffffffu) > 0x7f800000u ? 0x7fc0u : rounded;
}

void RoundBf16(const float* x, int64_t n, uint16_t* y) {
  for (int64_t i = 0; i < n; ++i) y[i] = static_cast<uint16_t>(RoundedBits(x[i]));
}

// How far ahead rows of a wide matrix are fetched.
constexpr int64_t kPairsAhead = 16;

// Writes one row of a panel: the pairs of `low(j)` and `high(j)`.
template <typename Low, typename High>
inline void StorePairs(int64_t columns, const Low& low, const High& high, uint16_t* panel) {
  uint32_t words[kPanelColumns] = {};
  if (columns == kPanelColumns) {
    for (int64_t j = 0; j < kPanelColumns; ++j) words[j] = low(j) | high(j) << 16;
  } else {
    for (int64_t j = 0; j < columns; ++j) words[j] = low(j) | high(j) << 16;
  }
  __builtin_memcpy(panel, words, sizeof words);
}

void RoundPairs(const float* rows, int64_t ld, int64_t depth, int64_t columns, uint16_t* panel) {
  const auto zero = [](int64_t) { return uint32_t{0}; };
  for (int64_t k = 0; k < depth; k += 2, panel += 2 * kPanelColumns) {
    const float* even = rows + k * ld;
    __builtin_prefetch(even + kPairsAhead * ld);
    __builtin_prefetch(even + (kPairsAhead + 1) * ld);
    const auto low = [even](int64_t j) { return RoundedBits(even[j]); };
    if (k + 1 == depth) return StorePairs(columns, low, zero, panel);
    const float* odd = even + ld;
    StorePairs(
        columns, low, [odd](int64_t j) { return RoundedBits(odd[j]); }, panel);
  }
}

void JoinPairs(const uint16_t* rows, int64_t ld, int64_t depth, uint16_t* panel) {
  const auto zero = [](int64_t) { return uint32_t{0}; };
  for (int64_t k = 0; k < depth; k += 2, panel += 2 * kPanelColumns) {
    const uint16_t* even = rows + k * ld;
    __builtin_prefetch(even + kPairsAhead * ld);
    __builtin_prefetch(even + (kPairsAhead + 1) * ld);
    const auto low = [even](int64_t j) { return static_cast<uint32_t>(even[j]); };
    if (k + 1 == depth) return StorePairs(kPanelColumns, low, zero, panel);
    const uint16_t* odd = even + ld;
    StorePairs(
        kPanelColumns, low, [odd](int64_t j) { return static_cast<uint32_t>(odd[j]); }, panel);
  }
}

// A pair of a row is one word.
void TransposePairs(const uint16_t* rows, int64_t ld, int64_t count, int64_t pairs,
                    uint16_t* panel) {
  if (count < kPanelColumns) {
    __builtin_memset(panel, 0, static_cast<uint64_t>(pairs * 2 * kPanelColumns) * sizeof *panel);
  }
  TransposeWords<false>(reinterpret_cast<const float*>(rows), ld / 2, count, pairs, 1,
                        reinterpret_cast<float*>(panel), kPanelColumns);
}
