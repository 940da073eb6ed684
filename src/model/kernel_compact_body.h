// Blocks of CompactMatrix as fp32: a part of kernel_body.h, inside its unnamed namespace.

// The 32 weights of a block, 16 and 16.
struct BlockLanes {
  Lanes left, right;
};

inline BlockLanes WidenBlock(const Bf16Weights& block) {
  return {WidenWords(block.values), WidenWords(block.values + kLanes)};
}

inline BlockLanes WidenBlock(const F16Weights& block) {
  return {WidenHalves(block.values), WidenHalves(block.values + kLanes)};
}

inline BlockLanes WidenBlock(const Int8Weights& block) {
  return {WidenBytes(block.values) * block.scale, WidenBytes(block.values + kLanes) * block.scale};
}

inline BlockLanes WidenBlock(const Int8LowWeights& block) {
  return {block.low[0] + WidenBytes(block.values) * block.scale[0],
          block.low[1] + WidenBytes(block.values + kLanes) * block.scale[1]};
}

template <typename Block>
void WidenBlocks(const uint8_t* first, int64_t step, int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i, first += step, out += kCompactBlock) {
    const BlockLanes wide = WidenBlock(*reinterpret_cast<const Block*>(first));
    StoreLanes(out, wide.left);
    StoreLanes(out + kLanes, wide.right);
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

inline Lanes ValuesOf(const Q4FloatWeights& block) {
  Lanes steps;
  for (int i = 0; i < kLanes; ++i) steps[i] = static_cast<float>(i);
  return steps * block.scale + block.low;
}

// Weight i of the block is values[its 4 bits].
template <typename Block>
inline void LookUp(const Block& block, Lanes values, float* out) {
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

// Blocks of 4 bits.
template <typename Block>
void LookUpBlocks(const uint8_t* first, int64_t step, int64_t count, float* out) {
  for (int64_t i = 0; i < count; ++i, first += step, out += kCompactBlock) {
    const auto* block = reinterpret_cast<const Block*>(first);
    LookUp(*block, ValuesOf(*block), out);
  }
}
