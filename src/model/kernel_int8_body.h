// Products over int8 panels: a part of kernel_body.h, inside its unnamed namespace.

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

inline Lanes Widen(const int8_t* values, Lanes scale) { return WidenBytes(values) * scale; }

void WidenInt8(const Int8Panel& panel, int64_t depth, float* out) {
  for (int64_t k = 0; k < depth; ++k) {
    const float* scales = panel.scales + k / kInt8Block * kPanelColumns;
    for (int64_t j = 0; j < kPanelColumns; j += kLanes) {
      *reinterpret_cast<Lanes*>(out + k * kPanelColumns + j) =
          Widen(panel.values + k * kPanelColumns + j, LoadLanes(scales + j));
    }
  }
}

// The low or the high halves of 16 bytes as fp32.
template <bool kHigh>
inline Lanes WidenHalves(const uint8_t* values) {
  Lanes out;
#if defined(__AVX512F__)
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(values));
  const __m512i words = _mm512_cvtepu8_epi32(bytes);
  const __m512i halves =
      kHigh ? _mm512_srli_epi32(words, 4) : _mm512_and_si512(words, _mm512_set1_epi32(15));
  const __m512 wide = _mm512_cvtepi32_ps(halves);
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

void WidenQ4(const Q4Panel& panel, int64_t depth, float* out) {
  const uint8_t* values = panel.values;
  for (int64_t begin = 0; begin < depth; begin += kCompactBlock) {
    const float* scales = panel.scales + begin / kCompactBlock * kPanelColumns;
    const float* lows = panel.lows + begin / kCompactBlock * kPanelColumns;
    const Lanes left_scale = LoadLanes(scales), right_scale = LoadLanes(scales + kLanes);
    const Lanes left_low = LoadLanes(lows), right_low = LoadLanes(lows + kLanes);
    const int64_t end = begin + kCompactBlock < depth ? begin + kCompactBlock : depth;
    for (int64_t k = begin; k < end; ++k, values += kLanes, out += kPanelColumns) {
      StoreLanes(out, left_low + left_scale * WidenHalves<false>(values));
      StoreLanes(out + kLanes, right_low + right_scale * WidenHalves<true>(values));
    }
  }
}

template <int kRows>
__attribute__((always_inline)) inline void Int8Block(const GemmArgs& args, const Int8Panel& panel,
                                                     int64_t first_row) {
  const GemmTerm& term = *args.terms;
  const float* x = term.x + first_row * term.ldx;
  Lanes sums[kRows][2];
  for (int i = 0; i < kRows; ++i) sums[i][0] = sums[i][1] = Lanes{};
  for (int64_t begin = 0; begin < term.depth; begin += kInt8Block) {
    const float* scales = panel.scales + begin / kInt8Block * kPanelColumns;
    const Lanes left_scale = LoadLanes(scales);
    const Lanes right_scale = LoadLanes(scales + kLanes);
    const int64_t end = begin + kInt8Block < term.depth ? begin + kInt8Block : term.depth;
    for (int64_t k = begin; k < end; ++k) {
      const Lanes left = Widen(panel.values + k * kPanelColumns, left_scale);
      const Lanes right = Widen(panel.values + k * kPanelColumns + kLanes, right_scale);
      for (int i = 0; i < kRows; ++i) {
        const float value = x[i * term.ldx + k];
        sums[i][0] += value * left;
        sums[i][1] += value * right;
      }
    }
  }
  for (int i = 0; i < kRows; ++i) {
    float row[kPanelColumns];
    *reinterpret_cast<Lanes*>(row) = sums[i][0];
    *reinterpret_cast<Lanes*>(row + kLanes) = sums[i][1];
    float* y = args.y + (first_row + i) * args.ldy;
    for (int64_t j = 0; j < args.columns; ++j) {
      y[j] = args.store == GemmStore::kAdd ? y[j] + row[j] : row[j];
    }
  }
}

void GemmInt8(const GemmArgs& args, const Int8Panel& panel) {
  int64_t row = 0;
  for (; row + 4 <= args.rows; row += 4) Int8Block<4>(args, panel, row);
  switch (args.rows - row) {
    case 3:
      return Int8Block<3>(args, panel, row);
    case 2:
      return Int8Block<2>(args, panel, row);
    case 1:
      return Int8Block<1>(args, panel, row);
    default:
      return;
  }
}
