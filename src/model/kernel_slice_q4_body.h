// Digits of weights of 4 bits: a part of kernel_body.h, inside its unnamed namespace. A block has
// 16 values; their digits are looked up by its bits, and no weight is widened.

#if defined(__AVX512VBMI__)

constexpr int64_t kLineBytes = 64;  // of the cache

// Four blocks, `step` bytes from one to the next.
struct FourBlocks {
  DigitBytes tables;  // [block][16]: digits of what its bits stand for
  __m512i bits[2];    // [block][16]: those of weights 0 to 15, and of 16 to 31
  // Digit d of the four blocks' weights: 16 of each.
  __m512i Digits(int d, int half) const { return _mm512_shuffle_epi8(tables.of[d], bits[half]); }
};
template <bool kWhole, typename Block>
inline FourBlocks TakeFour(const uint8_t* first, int64_t step, int64_t count, Lanes inverse) {
  alignas(64) Words words[4];
  __m128i bytes[4];
  for (int64_t i = 0; i < 4; ++i) {
    words[i] = Words{};
    bytes[i] = _mm_setzero_si128();
    if (!kWhole && i >= count) continue;
    const auto& block = *reinterpret_cast<const Block*>(first + i * step);
    words[i] = DigitsOf(ValuesOf(block), inverse) ^ kDigitSigns;
    bytes[i] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(block.values));
  }
  const __m512i all =
      _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_set_m128i(bytes[1], bytes[0])),
                         _mm256_set_m128i(bytes[3], bytes[2]), 1);
  const __m512i mask = _mm512_set1_epi8(15);
  return {ByDigit(words),
          {_mm512_and_si512(all, mask), _mm512_and_si512(_mm512_srli_epi16(all, 4), mask)}};
}
// Those from `count` on are zeros.
template <typename Block>
inline FourBlocks TakeFour(const uint8_t* first, int64_t step, int64_t count, Lanes inverse) {
  return count >= 4 ? TakeFour<true, Block>(first, step, count, inverse)
                    : TakeFour<false, Block>(first, step, count, inverse);
}

// The scale for the greatest value that `count` blocks can hold, `step` bytes from one to the next.
template <typename Block>
inline DigitScales ScalesOfBlocks(const uint8_t* first, int64_t step, int64_t count) {
  Words greatest = {};
  for (int64_t i = 0; i < count; ++i) {
    const auto& block = *reinterpret_cast<const Block*>(first + i * step);
    greatest = GreaterOf(greatest, MagnitudesOf(ValuesOf(block)));
  }
  return DigitScalesOf(GreatestInAll(greatest));
}

// Of one row of weights, up to kDigitChunk of them, as digits [step][digit][stride] of 64 bytes.
// Returns the scale.
template <typename Block>
inline float SliceQ4Row(const uint8_t* first, int64_t num_blocks, int64_t stride, int8_t* digits) {
  constexpr auto kBlockBytes = static_cast<int64_t>(sizeof(Block));
  const DigitScales scales = ScalesOfBlocks<Block>(first, kBlockBytes, num_blocks);
  for (int64_t b = 0; b < num_blocks; b += 4, digits += 2 * kDigits * stride) {
    const FourBlocks four =
        TakeFour<Block>(first + b * kBlockBytes, kBlockBytes, num_blocks - b, scales.inverse);
    for (int d = 0; d < kDigits; ++d) {
      const __m512i left = four.Digits(d, 0), right = four.Digits(d, 1);
      const __m512i one =
          _mm512_permutex2var_epi64(left, _mm512_setr_epi64(0, 1, 8, 9, 2, 3, 10, 11), right);
      const __m512i other =
          _mm512_permutex2var_epi64(left, _mm512_setr_epi64(4, 5, 12, 13, 6, 7, 14, 15), right);
      _mm512_storeu_si512(digits + d * stride, one);
      if (b + 2 < num_blocks) _mm512_storeu_si512(digits + (kDigits + d) * stride, other);
    }
  }
  return scales.scale[0];
}

// One chunk of 16 columns of a panel from as many rows of weights, or from the last of them.
template <typename Block>
inline void SliceQ4Half(const uint8_t* first, int64_t step, int64_t rows, int64_t depth,
                        int8_t* half, float* scales) {
  static_assert(kDigitStep == 2 * kCompactBlock);
  constexpr int64_t kTile = kHalf * kDigitStep;  // of one digit, row by row
  constexpr auto kBlockBytes = static_cast<int64_t>(sizeof(Block));
  alignas(64) int8_t digits[kDigitChunk / kDigitStep * kDigits * kTile];
  const int64_t steps = StepsOf(depth), num_blocks = (depth + kCompactBlock - 1) / kCompactBlock;
  if (rows < kHalf) __builtin_memset(digits, 0, sizeof digits);
  for (int64_t j = 0; j < kHalf; ++j) scales[j] = 0;
  for (int64_t j = 0; j < rows; ++j) {
    const uint8_t* next = first + (j + kPanelColumns) * step;  // likely the next panel's row
    for (int64_t i = 0; i < num_blocks * kBlockBytes; i += kLineBytes) {
      __builtin_prefetch(next + i, 0, 2);
    }
    scales[j] = SliceQ4Row<Block>(first + j * step, num_blocks, kTile, digits + j * kDigitStep);
  }
  constexpr int64_t kWords = kDigitStep / 4;
  for (int64_t i = 0; i < steps * kDigits; ++i) {
    TransposeSquare<false>(reinterpret_cast<const float*>(digits + i * kTile), kWords, 1,
                           reinterpret_cast<float*>(half + i * kDigitTileBytes), kHalf);
  }
}

template <typename Block>
void SliceQ4Transposed(const uint8_t* first, int64_t step, int64_t rows, int64_t depth,
                       int8_t* panel, float* scales) {
  for (int64_t j = 0; j < rows; j += kHalf) {
    const int64_t count = rows - j < kHalf ? rows - j : kHalf;
    SliceQ4Half<Block>(first + j * step, step, count, depth, panel, scales);
    panel += StepsOf(depth) * kHalfStepBytes;
    scales += kHalf;
  }
}

// Four rows of a panel, those from `count` on zeros.
template <typename Block>
inline void SliceQ4Quad(const uint8_t* first, int64_t step, int64_t count, Lanes inverse,
                        int8_t* panel, int64_t half_bytes) {
  // [4 rows, 16 columns] to [16 columns, 4 rows].
  static constexpr uint8_t kInterleaved[64] = {
      0,  16, 32, 48, 1,  17, 33, 49, 2,  18, 34, 50, 3,  19, 35, 51, 4,  20, 36, 52, 5,  21,
      37, 53, 6,  22, 38, 54, 7,  23, 39, 55, 8,  24, 40, 56, 9,  25, 41, 57, 10, 26, 42, 58,
      11, 27, 43, 59, 12, 28, 44, 60, 13, 29, 45, 61, 14, 30, 46, 62, 15, 31, 47, 63};
  const __m512i interleaved = _mm512_loadu_si512(kInterleaved);
  const FourBlocks four = TakeFour<Block>(first, step, count, inverse);
  for (int d = 0; d < kDigits; ++d) {
    for (int h = 0; h < 2; ++h) {
      _mm512_storeu_si512(panel + h * half_bytes + d * kDigitTileBytes,
                          _mm512_permutexvar_epi8(interleaved, four.Digits(d, h)));
    }
  }
}

// All columns have the scale of the greatest of them, so that a block's values have one table.
template <typename Block>
void SliceQ4Panel(const uint8_t* first, int64_t step, int64_t depth, int8_t* panel, float* scales) {
  // The blocks of the next panels lie behind these.
  for (int64_t k = 0; k < depth; ++k) __builtin_prefetch(first + k * step + kLineBytes, 0, 2);
  const DigitScales of = ScalesOfBlocks<Block>(first, step, depth);
  for (int64_t j = 0; j < kPanelColumns; j += kLanes) StoreLanes(scales + j, of.scale);
  constexpr int64_t kQuad = 4, kQuadBytes = kQuad * kHalf;
  const int64_t half_bytes = StepsOf(depth) * kHalfStepBytes;
  for (int64_t k = 0; k < StepsOf(depth) * kDigitStep; k += kQuad) {
    int8_t* to = panel + k / kDigitStep * kHalfStepBytes + k % kDigitStep / kQuad * kQuadBytes;
    SliceQ4Quad<Block>(first + k * step, step, depth - k, of.inverse, to, half_bytes);
  }
}

#endif

template <typename Block>
constexpr DigitKernels DigitKernelsOfQ4() {
#if defined(__AVX512VBMI__)
  return {SliceQ4Transposed<Block>, SliceQ4Panel<Block>};
#else
  return {};
#endif
}
