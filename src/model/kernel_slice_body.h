// Numbers as digits of 8 bits, for the products of kernel_digits_body.h: a part of kernel_body.h,
// inside its unnamed namespace.

constexpr int64_t kStepBytes = kDigits * kDigitStep;  // of a row
constexpr int64_t kHalf = kPanelColumns / 2;
constexpr int64_t kDigitTileBytes = kDigitStep * kHalf;  // one digit of half a panel
constexpr int64_t kHalfStepBytes = kDigits * kDigitTileBytes;

constexpr int64_t StepsOf(int64_t depth) { return (depth + kDigitStep - 1) / kDigitStep; }
inline int64_t ChunkAt(int64_t k, int64_t depth) {
  return depth - k < kDigitChunk ? depth - k : kDigitChunk;
}

// Numbers are their digits, 2^-8 from one to the next, times `scale`; by `inverse` they become the
// integers that the digits are of.
struct DigitScales {
  Lanes scale;
  Lanes inverse;
};
// `greatest`: magnitudes.
inline DigitScales DigitScalesOf(Words greatest) {
  // What rounds to no digit above 127.
  constexpr float kMost = 127 * 65536 + 127 * 256 + 124;
  const Integers bits = (Integers)greatest;
  const Lanes max = (Lanes)greatest;
  // Smaller numbers lose digits, as subnormal ones do: their inverse would be infinite.
  const auto is_small = max < Splat(0x1p-100f);
  const Lanes scale = is_small ? Splat(0x1p-107f) : max * (65536 / kMost);
  return {.scale = bits >= 0x7f800000 ? Splat(__builtin_nanf("")) : scale,
          .inverse = is_small ? Splat(0x1p123f) : kMost / max};
}

inline Words MagnitudesOf(Lanes x) { return (Words)x & 0x7fffffffu; }
inline Words GreaterOf(Words a, Words b) {
  const Integers x = (Integers)a, y = (Integers)b;  // no sign bits
  return (Words)(x > y ? x : y);
}
inline Words GreatestInAll(Words words) {
#if defined(__AVX512F__)
  return Words{} + _mm512_reduce_max_epu32((__m512i)words);
#else
  uint32_t most = 0;
  for (int i = 0; i < kLanes; ++i) most = words[i] > most ? words[i] : most;
  return Words{} + most;
#endif
}

inline Integers NearestIntegers(Lanes x) {
#if defined(__AVX512F__)
  return (Integers)_mm512_cvtps_epi32((__m512)x);
#else
  Integers nearest;
  for (int i = 0; i < kLanes; ++i) nearest[i] = static_cast<int32_t>(__builtin_lrintf(x[i]));
  return nearest;
#endif
}

// The digits of 16 numbers, each in a byte of its word, the greatest in byte 2; 128 too large,
// which kDigitSigns takes away.
inline Words DigitsOf(Lanes x, Lanes inverse) {
  return (Words)(NearestIntegers(x * inverse) + 0x808080);
}
constexpr uint32_t kDigitSigns = 0x80808080u;

#if defined(__AVX512VBMI__)

// Of 64 words, byte 2 of each first: the greatest digits.
struct DigitBytes {
  __m512i of[kDigits];
};
inline DigitBytes ByDigit(const Words* words) {
  // Of two vectors.
  static constexpr uint8_t kUpper[64] = {
      2,  6,  10, 14, 18, 22, 26, 30, 34, 38,  42,  46,  50,  54,  58,  62,
      66, 70, 74, 78, 82, 86, 90, 94, 98, 102, 106, 110, 114, 118, 122, 126,
      1,  5,  9,  13, 17, 21, 25, 29, 33, 37,  41,  45,  49,  53,  57,  61,
      65, 69, 73, 77, 81, 85, 89, 93, 97, 101, 105, 109, 113, 117, 121, 125};
  const __m512i upper = _mm512_loadu_si512(kUpper);
  const __m512i lower = _mm512_sub_epi8(upper, _mm512_set1_epi8(2));
  const __m512i w0 = (__m512i)words[0], w1 = (__m512i)words[1];
  const __m512i w2 = (__m512i)words[2], w3 = (__m512i)words[3];
  const __m512i a = _mm512_permutex2var_epi8(w0, upper, w1);
  const __m512i b = _mm512_permutex2var_epi8(w2, upper, w3);
  const __m512i c = _mm512_permutex2var_epi8(w0, lower, w1);
  const __m512i d = _mm512_permutex2var_epi8(w2, lower, w3);
  return {_mm512_shuffle_i64x2(a, b, 0x44), _mm512_shuffle_i64x2(a, b, 0xee),
          _mm512_shuffle_i64x2(c, d, 0x44)};
}

inline void StoreByDigit(const Words* words, int8_t* to) {
  const DigitBytes bytes = ByDigit(words);
  for (int d = 0; d < kDigits; ++d) _mm512_storeu_si512(to + d * kDigitStep, bytes.of[d]);
}

#else

// Byte 2 of each of 64 words, then byte 1, then byte 0.
inline void StoreByDigit(const Words* words, int8_t* to) {
  for (int64_t k = 0; k < kDigitStep; ++k) {
    const uint32_t word = words[k / kLanes][k % kLanes];
    for (int d = 0; d < kDigits; ++d) {
      to[d * kDigitStep + k] = static_cast<int8_t>(word >> 8 * (kDigits - 1 - d) & 255u);
    }
  }
}

#endif

// One chunk of a row; `load(k)` gives 16 numbers, zeros behind the last.
template <typename Load>
inline float SliceChunk(int64_t count, const Load& load, int8_t* digits) {
  Words greatest = {};
  for (int64_t k = 0; k < count; k += kLanes) {
    greatest = GreaterOf(greatest, MagnitudesOf(load(k)));
  }
  const DigitScales scales = DigitScalesOf(GreatestInAll(greatest));
  for (int64_t k = 0; k < count; k += kDigitStep, digits += kStepBytes) {
    Words words[kDigitStep / kLanes];
    for (int64_t i = 0; i < kDigitStep / kLanes; ++i) {
      words[i] = DigitsOf(load(k + i * kLanes), scales.inverse) ^ kDigitSigns;
    }
    StoreByDigit(words, digits);
  }
  return scales.scale[0];
}

void SliceRow(const float* x, int64_t n, int8_t* digits, float* scales) {
  const auto whole = [&x](int64_t k) { return LoadLanes(x + k); };
  for (; n >= kDigitChunk; n -= kDigitChunk, x += kDigitChunk) {
    *scales++ = SliceChunk(kDigitChunk, whole, digits);
    digits += kDigits * kDigitChunk;
  }
  if (n == 0) return;
  alignas(64) float rest[kDigitChunk] = {};
  __builtin_memcpy(rest, x, static_cast<uint64_t>(n) * sizeof *x);
  *scales = SliceChunk(
      n, [&rest](int64_t k) { return LoadLanes(rest + k); }, digits);
}

// Where `mask` has bits, those of `a`; else those of `b`.
inline Words Select(uint32_t mask, Words a, Words b) { return (a & mask) | (b & ~mask); }

// Of four rows of 16 columns: word j of a digit's are its bytes in column j.
inline void StoreQuad(const Words* rows, int8_t* to) {
  Words outer[2], middle[2];  // of two rows: bytes 0 and 2, byte 1
  for (int i = 0; i < 2; ++i) {
    const Words low = rows[2 * i], high = rows[2 * i + 1];
    outer[i] = Select(0x00ff00ffu, low, high << 8);
    middle[i] = Select(0x000000ffu, low >> 8, high);
  }
  const auto store = [to](int digit, Words pairs, Words further) {
    *reinterpret_cast<Words*>(to + digit * kDigitTileBytes) =
        Select(0x0000ffffu, pairs, further) ^ kDigitSigns;
  };
  store(0, outer[0] >> 16, outer[1]);
  store(1, middle[0], middle[1] << 16);
  store(2, outer[0], outer[1] << 16);
}

// One chunk of up to 16 columns.
template <bool kWhole>
inline void SliceHalf(const float* rows, int64_t ld, int64_t depth, int64_t columns, int8_t* half,
                      float* scales) {
  const auto load = [=](int64_t k) {
    return kWhole ? LoadLanes(rows + k * ld) : LoadSome(rows + k * ld, columns, 0);
  };
  Words greatest = {};
  for (int64_t k = 0; k < depth; ++k) greatest = GreaterOf(greatest, MagnitudesOf(load(k)));
  const DigitScales of = DigitScalesOf(greatest);
  StoreLanes(scales, of.scale);
  constexpr int64_t kQuad = 4, kQuadBytes = kQuad * kHalf;
  for (int64_t k = 0; k < StepsOf(depth) * kDigitStep; k += kQuad) {
    Words words[kQuad];
    if (k + kQuad <= depth) {
      for (int64_t i = 0; i < kQuad; ++i) words[i] = DigitsOf(load(k + i), of.inverse);
    } else {
      for (int64_t i = 0; i < kQuad; ++i) {
        words[i] = DigitsOf(k + i < depth ? load(k + i) : Lanes{}, of.inverse);
      }
    }
    StoreQuad(words, half + k / kDigitStep * kHalfStepBytes + k % kDigitStep / kQuad * kQuadBytes);
  }
}

void SlicePanel(const float* rows, int64_t ld, int64_t depth, int64_t columns, int8_t* panel,
                float* scales) {
  for (int64_t first = 0; first < depth; first += kDigitChunk) {
    const int64_t count = ChunkAt(first, depth);
    for (int64_t j = 0; j < kPanelColumns; j += kHalf) {
      const float* from = rows + first * ld + j;
      if (j + kHalf <= columns) {
        SliceHalf<true>(from, ld, count, kHalf, panel, scales);
      } else if (j < columns) {
        SliceHalf<false>(from, ld, count, columns - j, panel, scales);
      }
      panel += StepsOf(count) * kHalfStepBytes;
      scales += kHalf;
    }
  }
}
