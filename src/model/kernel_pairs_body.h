// Products of bf16 factors: a part of kernel_body.h, inside its unnamed namespace.

// One pair of 16 columns, and one pair of a row for all of them.
#if defined(__AVX512BF16__)

typedef __m512bh PairColumns;
typedef __m512bh PairValue;

inline PairColumns LoadPairs(const uint16_t* panel) { return (__m512bh)_mm512_loadu_si512(panel); }
inline PairValue SplatPair(const uint16_t* x) {
  int32_t word;
  __builtin_memcpy(&word, x, sizeof word);
  return (__m512bh)_mm512_set1_epi32(word);
}
inline void AddPair(PairValue x, PairColumns columns, Lanes& sum) {
  sum = (Lanes)_mm512_dpbf16_ps((__m512)sum, x, columns);
}

#else

// In fp32, in which the product of two bf16 numbers is exact.
struct PairColumns {
  Lanes even, odd;
};
struct PairValue {
  float even, odd;
};

inline PairColumns LoadPairs(const uint16_t* panel) {
  Words words;
  __builtin_memcpy(&words, panel, sizeof words);
  return {(Lanes)(words << 16), (Lanes)(words & 0xffff0000u)};
}
inline PairValue SplatPair(const uint16_t* x) {
  const uint32_t even = static_cast<uint32_t>(x[0]) << 16, odd = static_cast<uint32_t>(x[1]) << 16;
  PairValue value;
  __builtin_memcpy(&value.even, &even, sizeof even);
  __builtin_memcpy(&value.odd, &odd, sizeof odd);
  return value;
}
// In the order of AVX512-BF16's instruction.
inline void AddPair(const PairValue& x, const PairColumns& columns, Lanes& sum) {
  sum += x.odd * columns.odd;
  sum += x.even * columns.even;
}

#endif

template <int kRows, int kVectors>
__attribute__((always_inline)) inline void AddPairTerm(const PairTerm& term, int64_t first_row,
                                                       Sums<kRows, kVectors>& sums) {
  const uint16_t* x = term.x + first_row * term.ldx;
  const uint16_t* panel = term.panel;
  for (int64_t k = 0; k < term.pairs; ++k) {
    PairColumns columns[kVectors];
    for (int v = 0; v < kVectors; ++v) columns[v] = LoadPairs(panel + v * 2 * kLanes);
    for (int i = 0; i < kRows; ++i) {
      const PairValue value = SplatPair(x + i * term.ldx);
      for (int v = 0; v < kVectors; ++v) AddPair(value, columns[v], sums[i][v]);
    }
    panel += 2 * kPanelColumns;
    x += 2;
  }
}

template <int kRows, int kVectors>
__attribute__((always_inline)) inline void GemmBlock(const PairGemmArgs& args, int64_t first_row) {
  Sums<kRows, kVectors> sums;
  ClearSums<kRows, kVectors>(args, first_row, sums);
  for (int64_t t = 0; t < args.num_terms; ++t) {
    AddPairTerm<kRows, kVectors>(args.terms[t], first_row, sums);
  }
  StoreSums<kRows, kVectors>(args, first_row, sums);
}
