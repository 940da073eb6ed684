// Values of few bits as fp32: a part of kernel_body.h, inside its unnamed namespace.

// 16 int8 values as fp32. Intrinsics, because GCC 12 turns __builtin_convertvector of bytes into
// scalar code.
inline Lanes WidenBytes(const int8_t* values) {
  Lanes out;
#if defined(__AVX512F__)
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(values));
  const __m512 wide = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes));
  __builtin_memcpy(&out, &wide, sizeof out);
#elif defined(__AVX2__)
  for (int half = 0; half < 2; ++half) {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(values + 8 * half));
    const __m256 wide = _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
    __builtin_memcpy(reinterpret_cast<char*>(&out) + 32 * half, &wide, sizeof wide);
  }
#else
  for (int j = 0; j < kLanes; ++j) out[j] = static_cast<float>(values[j]);
#endif
  return out;
}

// 16 bf16 values as fp32, whose upper halves they are.
inline Lanes WidenWords(const uint16_t* values) {
  Lanes out;
#if defined(__AVX512F__)
  const __m256i words = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(values));
  const __m512i wide = _mm512_slli_epi32(_mm512_cvtepu16_epi32(words), 16);
  __builtin_memcpy(&out, &wide, sizeof out);
#elif defined(__AVX2__)
  for (int half = 0; half < 2; ++half) {
    const __m128i words = _mm_loadu_si128(reinterpret_cast<const __m128i*>(values + 8 * half));
    const __m256i wide = _mm256_slli_epi32(_mm256_cvtepu16_epi32(words), 16);
    __builtin_memcpy(reinterpret_cast<char*>(&out) + 32 * half, &wide, sizeof wide);
  }
#else
  for (int j = 0; j < kLanes; ++j) {
    const uint32_t word = static_cast<uint32_t>(values[j]) << 16;
    __builtin_memcpy(reinterpret_cast<float*>(&out) + j, &word, sizeof word);
  }
#endif
  return out;
}

// A finite fp16 value. Its exponent and digits in fp32's places are 2^-112 of it.
inline float WidenHalf(uint16_t half) {
  const uint32_t bits = static_cast<uint32_t>(half & 0x7fff) << 13;
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  value *= 0x1p112f;
  return (half & 0x8000) != 0 ? -value : value;
}

// 16 of them as fp32.
inline Lanes WidenHalves(const uint16_t* values) {
  Lanes out;
#if defined(__AVX512F__)
  const __m512 wide = _mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(values)));
  __builtin_memcpy(&out, &wide, sizeof out);
#else
  for (int j = 0; j < kLanes; ++j) out[j] = WidenHalf(values[j]);
#endif
  return out;
}

// The low or the high 4 bits of 16 bytes as fp32.
template <bool kHigh>
inline Lanes WidenNibbles(const uint8_t* values) {
  Lanes out;
#if defined(__AVX512F__)
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(values));
  const __m512i words = _mm512_cvtepu8_epi32(bytes);
  // Looked up: of an index the low 4 bits count.
  const __m512 numbers = _mm512_setr_ps(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512 wide = _mm512_permutexvar_ps(kHigh ? _mm512_srli_epi32(words, 4) : words, numbers);
  __builtin_memcpy(&out, &wide, sizeof out);
#elif defined(__AVX2__)
  for (int half = 0; half < 2; ++half) {
    const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(values + 8 * half));
    const __m256i words = _mm256_cvtepu8_epi32(bytes);
    const __m256i halves =
        kHigh ? _mm256_srli_epi32(words, 4) : _mm256_and_si256(words, _mm256_set1_epi32(15));
    const __m256 wide = _mm256_cvtepi32_ps(halves);
    __builtin_memcpy(reinterpret_cast<char*>(&out) + 32 * half, &wide, sizeof wide);
  }
#else
  for (int j = 0; j < kLanes; ++j) {
    out[j] = static_cast<float>(kHigh ? values[j] >> 4 : values[j] & 15);
  }
#endif
  return out;
}
