// Blocks of CompactMatrix as fp32: a part of kernel_body.h, inside its unnamed namespace.

// A finite fp16 value. Its exponent and digits in fp32's places are 2^-112 of it.
inline float WidenHalf(uint16_t half) {
  const uint32_t bits = static_cast<uint32_t>(half & 0x7fff) << 13;
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  value *= 0x1p112f;
  return (half & 0x8000) != 0 ? -value : value;
}

void WidenBf16Blocks(const uint8_t* first, int64_t step, int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i, first += step, out += kCompactBlock) {
    const auto* values = reinterpret_cast<const uint16_t*>(first);
    StoreLanes(out, WidenWords(values));
    StoreLanes(out + kLanes, WidenWords(values + kLanes));
  }
}

void WidenInt8Blocks(const uint8_t* first, int64_t step, int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i, first += step, out += kCompactBlock) {
    const auto* block = reinterpret_cast<const Int8Weights*>(first);
    *reinterpret_cast<Lanes*>(out) = WidenBytes(block->values) * block->scale;
    *reinterpret_cast<Lanes*>(out + kLanes) = WidenBytes(block->values + kLanes) * block->scale;
  }
}

// What each of the 16 values of a block stands for. value * scale has no more digits than fp32:
// fused or not, the sum is rounded once.
inline Lanes ValuesOf(const Q4Weights& block) {
  Lanes steps;
  for (int i = 0; i < kLanes; ++i) steps[i] = static_cast<float>(i);
#if defined(__AVX512F__)
  const __m128i halves = _mm_loadu_si32(&block.scale);  // and low
  const __m512 wide = _mm512_cvtph_ps(_mm256_castsi128_si256(halves));
  const __m512 scales = _mm512_broadcastss_ps(_mm512_castps512_ps128(wide));
  const __m512 lows = _mm512_permutexvar_ps(_mm512_set1_epi32(1), wide);
  Lanes scale, low;
  __builtin_memcpy(&scale, &scales, sizeof scale);
  __builtin_memcpy(&low, &lows, sizeof low);
  return steps * scale + low;
#else
  return steps * WidenHalf(block.scale) + WidenHalf(block.low);
#endif
}

// Weight i of the block is values[its 4 bits].
inline void LookUp(const Q4Weights& block, Lanes values, float* out) {
#if defined(__AVX512F__)
  __m512 table;
  __builtin_memcpy(&table, &values, sizeof table);
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(block.values));
  const __m512i words = _mm512_cvtepu8_epi32(bytes);  // of an index the low 4 bits count
  _mm512_storeu_ps(out, _mm512_permutexvar_ps(words, table));
  _mm512_storeu_ps(out + kLanes, _mm512_permutexvar_ps(_mm512_srli_epi32(words, 4), table));
#else
  for (int j = 0; j < kLanes; ++j) {
    out[j] = values[block.values[j] & 15];
    out[j + kLanes] = values[block.values[j] >> 4];
  }
#endif
}

void WidenQ4Blocks(const uint8_t* first, int64_t step, int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i, first += step, out += kCompactBlock) {
    const auto* block = reinterpret_cast<const Q4Weights*>(first);
    LookUp(*block, ValuesOf(*block), out);
  }
}
