// Panels of int8 and of 4-bit weights, and products over them: a part of kernel_body.h, inside its
// unnamed namespace.

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

// The low or the high halves of 16 bytes as fp32.
template <bool kHigh>
inline Lanes WidenHalves(const uint8_t* values) {
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

// The columns of a panel in few bits as fp32, 16 to the left and 16 to the right. Enter the block
// of a row before the row is read.
class Int8Columns {
 public:
  explicit Int8Columns(const Int8Panel& panel) : panel_(panel) {}
  void Enter(int64_t block) {
    const float* scales = panel_.scales + block * kPanelColumns;
    left_ = LoadLanes(scales);
    right_ = LoadLanes(scales + kLanes);
  }
  Lanes Left(int64_t k) const { return WidenBytes(panel_.values + k * kPanelColumns) * left_; }
  Lanes Right(int64_t k) const {
    return WidenBytes(panel_.values + k * kPanelColumns + kLanes) * right_;
  }

 private:
  const Int8Panel& panel_;
  Lanes left_, right_;  // scales
};

class Q4Columns {
 public:
  explicit Q4Columns(const Q4Panel& panel) : panel_(panel) {}
  void Enter(int64_t block) {
    const float* scales = panel_.scales + block * kPanelColumns;
    const float* lows = panel_.lows + block * kPanelColumns;
    left_scale_ = LoadLanes(scales);
    right_scale_ = LoadLanes(scales + kLanes);
    left_low_ = LoadLanes(lows);
    right_low_ = LoadLanes(lows + kLanes);
  }
  Lanes Left(int64_t k) const {
    return left_low_ + left_scale_ * WidenHalves<false>(panel_.values + k * kLanes);
  }
  Lanes Right(int64_t k) const {
    return right_low_ + right_scale_ * WidenHalves<true>(panel_.values + k * kLanes);
  }

 private:
  const Q4Panel& panel_;
  Lanes left_scale_, right_scale_, left_low_, right_low_;
};

// Calls body(k) for each row, in its block.
template <typename Columns, typename Body>
inline void ForRows(Columns& columns, int64_t depth, const Body& body) {
  for (int64_t begin = 0; begin < depth; begin += kCompactBlock) {
    columns.Enter(begin / kCompactBlock);
    const int64_t end = begin + kCompactBlock < depth ? begin + kCompactBlock : depth;
    for (int64_t k = begin; k < end; ++k) body(k);
  }
}

template <typename Columns>
void WidenColumns(Columns columns, int64_t depth, float* out) {
  ForRows(columns, depth, [&](int64_t k) {
    StoreLanes(out + k * kPanelColumns, columns.Left(k));
    StoreLanes(out + k * kPanelColumns + kLanes, columns.Right(k));
  });
}

void WidenInt8(const Int8Panel& panel, int64_t depth, float* out) {
  WidenColumns(Int8Columns(panel), depth, out);
}
void WidenQ4(const Q4Panel& panel, int64_t depth, float* out) {
  WidenColumns(Q4Columns(panel), depth, out);
}

template <int kRows, typename Columns>
__attribute__((always_inline)) inline void ColumnsBlock(const GemmArgs& args, Columns columns,
                                                        int64_t first_row) {
  const GemmTerm& term = *args.terms;
  const float* x = term.x + first_row * term.ldx;
  Lanes sums[kRows][2];
  for (int i = 0; i < kRows; ++i) sums[i][0] = sums[i][1] = Lanes{};
  ForRows(columns, term.depth, [&](int64_t k) {
    const Lanes left = columns.Left(k), right = columns.Right(k);
    for (int i = 0; i < kRows; ++i) {
      const float value = x[i * term.ldx + k];
      sums[i][0] += value * left;
      sums[i][1] += value * right;
    }
  });
  for (int i = 0; i < kRows; ++i) {
    float row[kPanelColumns];
    StoreLanes(row, sums[i][0]);
    StoreLanes(row + kLanes, sums[i][1]);
    float* y = args.y + (first_row + i) * args.ldy;
    for (int64_t j = 0; j < args.columns; ++j) {
      y[j] = args.store == GemmStore::kAdd ? y[j] + row[j] : row[j];
    }
  }
}

template <typename Columns>
void GemmColumns(const GemmArgs& args, const Columns& columns) {
  int64_t row = 0;
  for (; row + 4 <= args.rows; row += 4) ColumnsBlock<4>(args, columns, row);
  switch (args.rows - row) {
    case 3:
      return ColumnsBlock<3>(args, columns, row);
    case 2:
      return ColumnsBlock<2>(args, columns, row);
    case 1:
      return ColumnsBlock<1>(args, columns, row);
    default:
      return;
  }
}

void GemmInt8(const GemmArgs& args, const Int8Panel& panel) {
  GemmColumns(args, Int8Columns(panel));
}
void GemmQ4(const GemmArgs& args, const Q4Panel& panel) { GemmColumns(args, Q4Columns(panel)); }
