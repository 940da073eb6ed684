// Transposing blocks of a matrix: a part of kernel_body.h, inside its unnamed namespace.

// dst[k * ldd + j] = factor * src[j * lds + k] of a block that fills no square. Without kScaled
// bits go over as they are: any 32-bit words.
template <bool kScaled>
inline void TransposeAny(const float* src, int64_t lds, int64_t rows, int64_t depth, float factor,
                         float* dst, int64_t ldd) {
  for (int64_t j = 0; j < rows; ++j) {
    for (int64_t k = 0; k < depth; ++k) {
      if constexpr (kScaled) {
        dst[k * ldd + j] = factor * src[j * lds + k];
      } else {
        __builtin_memcpy(dst + k * ldd + j, src + j * lds + k, sizeof(float));
      }
    }
  }
}

#if defined(__AVX512F__)

constexpr int64_t kSquare = 16;

// Pairs of rows, pairs of pairs, then the 4 x 4 blocks of 4 values change places in two steps.
template <bool kScaled>
inline void TransposeSquare(const float* src, int64_t lds, float factor, float* dst, int64_t ldd) {
  __m512 r[16], t[16];
  [[maybe_unused]] const __m512 f = _mm512_set1_ps(factor);
  for (int i = 0; i < 16; ++i) {
    r[i] = _mm512_loadu_ps(src + i * lds);
    if constexpr (kScaled) r[i] = _mm512_mul_ps(r[i], f);
  }
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_ps(r[i], r[i + 1]);
  }
  const auto pairs_low = [](__m512 a, __m512 b) {
    return _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
  };
  const auto pairs_high = [](__m512 a, __m512 b) {
    return _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(a), _mm512_castps_pd(b)));
  };
  for (int i = 0; i < 16; i += 4) {
    r[i] = pairs_low(t[i], t[i + 2]);
    r[i + 1] = pairs_high(t[i], t[i + 2]);
    r[i + 2] = pairs_low(t[i + 1], t[i + 3]);
    r[i + 3] = pairs_high(t[i + 1], t[i + 3]);
  }
  // r[4 g + c] holds columns c, 4 + c, 8 + c and 12 + c of rows 4 g .. 4 g + 3.
  for (int c = 0; c < 4; ++c) {
    t[c] = _mm512_shuffle_f32x4(r[c], r[4 + c], 0x88);
    t[4 + c] = _mm512_shuffle_f32x4(r[c], r[4 + c], 0xdd);
    t[8 + c] = _mm512_shuffle_f32x4(r[8 + c], r[12 + c], 0x88);
    t[12 + c] = _mm512_shuffle_f32x4(r[8 + c], r[12 + c], 0xdd);
  }
  for (int c = 0; c < 4; ++c) {
    _mm512_storeu_ps(dst + c * ldd, _mm512_shuffle_f32x4(t[c], t[8 + c], 0x88));
    _mm512_storeu_ps(dst + (4 + c) * ldd, _mm512_shuffle_f32x4(t[4 + c], t[12 + c], 0x88));
    _mm512_storeu_ps(dst + (8 + c) * ldd, _mm512_shuffle_f32x4(t[c], t[8 + c], 0xdd));
    _mm512_storeu_ps(dst + (12 + c) * ldd, _mm512_shuffle_f32x4(t[4 + c], t[12 + c], 0xdd));
  }
}

#elif defined(__AVX2__)

constexpr int64_t kSquare = 8;

// Pairs of rows, pairs of pairs, then halves.
template <bool kScaled>
inline void TransposeSquare(const float* src, int64_t lds, float factor, float* dst, int64_t ldd) {
  __m256 r[8], t[8];
  [[maybe_unused]] const __m256 f = _mm256_set1_ps(factor);
  for (int i = 0; i < 8; ++i) {
    r[i] = _mm256_loadu_ps(src + i * lds);
    if constexpr (kScaled) r[i] = _mm256_mul_ps(r[i], f);
  }
  for (int i = 0; i < 8; i += 2) {
    t[i] = _mm256_unpacklo_ps(r[i], r[i + 1]);
    t[i + 1] = _mm256_unpackhi_ps(r[i], r[i + 1]);
  }
  for (int i = 0; i < 8; i += 4) {
    r[i] = _mm256_shuffle_ps(t[i], t[i + 2], 0x44);
    r[i + 1] = _mm256_shuffle_ps(t[i], t[i + 2], 0xee);
    r[i + 2] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0x44);
    r[i + 3] = _mm256_shuffle_ps(t[i + 1], t[i + 3], 0xee);
  }
  for (int c = 0; c < 4; ++c) {
    _mm256_storeu_ps(dst + c * ldd, _mm256_permute2f128_ps(r[c], r[4 + c], 0x20));
    _mm256_storeu_ps(dst + (4 + c) * ldd, _mm256_permute2f128_ps(r[c], r[4 + c], 0x31));
  }
}

#else

constexpr int64_t kSquare = 16;

template <bool kScaled>
inline void TransposeSquare(const float* src, int64_t lds, float factor, float* dst, int64_t ldd) {
  TransposeAny<kScaled>(src, lds, kSquare, kSquare, factor, dst, ldd);
}

#endif

template <bool kScaled>
void TransposeWords(const float* src, int64_t lds, int64_t rows, int64_t depth, float factor,
                    float* dst, int64_t ldd) {
  // All rows of a few columns after another: the writes stay in few pages.
  const int64_t square_rows = rows / kSquare * kSquare;
  int64_t k = 0;
  for (; k + kSquare <= depth; k += kSquare) {
    for (int64_t j = 0; j < square_rows; j += kSquare) {
      TransposeSquare<kScaled>(src + j * lds + k, lds, factor, dst + k * ldd + j, ldd);
    }
    TransposeAny<kScaled>(src + square_rows * lds + k, lds, rows - square_rows, kSquare, factor,
                          dst + k * ldd + square_rows, ldd);
  }
  TransposeAny<kScaled>(src + k, lds, rows, depth - k, factor, dst + k * ldd, ldd);
}

void Transpose(const float* src, int64_t lds, int64_t rows, int64_t depth, float factor, float* dst,
               int64_t ldd) {
  TransposeWords<true>(src, lds, rows, depth, factor, dst, ldd);
}
