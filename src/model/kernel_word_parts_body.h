// Products of fp32 factors by three bf16 parts each: a part of kernel_body.h, inside its unnamed
// namespace.

typedef uint32_t Words __attribute__((vector_size(64), aligned(4)));
typedef uint16_t HalfWords __attribute__((vector_size(32), aligned(2)));

// The parts of 16 numbers, each in the high half of a word. Ties go away from zero: what a part
// leaves is no more than half its last digit, either way.
struct Parts {
  Words words[kBf16Parts];
};
inline Parts PartsOf(Lanes x) {
  Parts parts;
  for (int p = 0; p + 1 < kBf16Parts; ++p) {
    parts.words[p] = ((Words)x + 0x8000u) & 0xffff0000u;
    x -= (Lanes)parts.words[p];
  }
  parts.words[kBf16Parts - 1] = (Words)x;  // has 8 digits at most
  return parts;
}

inline void StoreHighHalves(Words words, uint16_t* to) {
  *reinterpret_cast<HalfWords*>(to) = __builtin_convertvector(words >> 16, HalfWords);
}

void SplitBf16x3(const float* x, int64_t n, int64_t part, uint16_t* y) {
  ForLanes(n, [=](int64_t i, int64_t count) {
    const Parts parts = PartsOf(LoadAny(x + i, count));
    for (int p = 0; p < kBf16Parts; ++p) {
      uint16_t* to = y + p * part + i;
      if (count == kLanes) {
        StoreHighHalves(parts.words[p], to);
      } else {
        uint16_t all[kLanes];
        StoreHighHalves(parts.words[p], all);
        __builtin_memcpy(to, all, static_cast<uint64_t>(count) * sizeof *to);
      }
    }
  });
}

void SumBlocks(const float* x, int64_t n, float* sums) {
  for (int64_t k = 0; k < n; k += kCompactBlock) {
    Lanes sum = {};
    ForLanes(n - k < kCompactBlock ? n - k : kCompactBlock,
             [&](int64_t i, int64_t count) { sum += LoadAny(x + k + i, count); });
    float halves[kLanes];
    StoreLanes(halves, sum);
    for (int width = kLanes / 2; width > 0; width /= 2) {
      for (int j = 0; j < width; ++j) halves[j] += halves[j + width];
    }
    sums[k / kCompactBlock] = halves[0];
  }
}

// Writes the pairs of 16 columns of two rows; `any` becomes the bits that any part has.
inline void StorePartPairs(Lanes even, Lanes odd, int64_t part, uint16_t* panel, Parts& any) {
  const Parts low = PartsOf(even), high = PartsOf(odd);
  for (int p = 0; p < kBf16Parts; ++p) {
    const Words pairs = (low.words[p] >> 16) | (high.words[p] & 0xffff0000u);
    *reinterpret_cast<Words*>(panel + p * part) = pairs;
    any.words[p] |= pairs;
  }
}

inline bool AnyBit(Words words) {
  uint32_t bits = 0;
  for (int i = 0; i < kLanes; ++i) bits |= words[i];
  return bits != 0;
}

int SplitPairs(const float* rows, int64_t ld, int64_t depth, int64_t columns, int64_t part,
               uint16_t* panel) {
  constexpr int64_t kRows = 2 * kBf16x3Pairs;
  Parts any = {};
  const int64_t end = (depth + kRows - 1) / kRows * kRows;
  for (int64_t k = 0; k < end; k += 2, panel += 2 * kPanelColumns) {
    const float *even = rows + k * ld, *odd = even + ld;
    for (int64_t j = 0; j < kPanelColumns; j += kLanes) {
      const int64_t some = columns - j < kLanes ? columns - j : kLanes;
      Lanes low = {}, high = {};
      if (some > 0 && k < depth) {
        low = LoadAny(even + j, some);
        __builtin_prefetch(even + kPairsAhead * ld + j);
      }
      if (some > 0 && k + 1 < depth) {
        high = LoadAny(odd + j, some);
        __builtin_prefetch(odd + kPairsAhead * ld + j);
      }
      StorePartPairs(low, high, part, panel + 2 * j, any);
    }
  }
  int parts = kBf16Parts;
  while (parts > 1 && !AnyBit(any.words[parts - 1])) --parts;
  return parts;
}

// Weight i of the block is the high half of the word of its 4 bits: of `first` at y, of `second`
// at z.
template <typename Block>
inline void LookUpHighHalves(const Block& block, Words first, Words second, uint16_t* y,
                             uint16_t* z) {
  const Words pairs = (first >> 16) | (second & 0xffff0000u);
#if defined(__AVX512BW__)
  __m512i table;
  __builtin_memcpy(&table, &pairs, sizeof table);
  const __m256i bytes =
      _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(block.values)));
  const __m512i both = _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_slli_epi16(bytes, 1)),
                                          _mm256_srli_epi16(bytes, 3), 1);
  const __m512i index = _mm512_and_si512(both, _mm512_set1_epi16(30));
  _mm512_storeu_si512(y, _mm512_permutexvar_epi16(index, table));
  _mm512_storeu_si512(
      z, _mm512_permutexvar_epi16(_mm512_or_si512(index, _mm512_set1_epi16(1)), table));
#else
  for (int j = 0; j < kLanes; ++j) {
    const uint32_t low = pairs[block.values[j] & 15], high = pairs[block.values[j] >> 4];
    y[j] = static_cast<uint16_t>(low);
    y[j + kLanes] = static_cast<uint16_t>(high);
    z[j] = static_cast<uint16_t>(low >> 16);
    z[j + kLanes] = static_cast<uint16_t>(high >> 16);
  }
#endif
}

// How far ahead blocks are fetched: as many as a panel has columns.
constexpr int64_t kBlocksAhead = kPanelColumns;

// Blocks of 4 bits.
template <typename Block>
int SplitLookedUp(const uint8_t* first, int64_t step, int64_t count, int64_t part, uint16_t* y) {
  const auto block = [=](int64_t i) -> const Block& {
    return *reinterpret_cast<const Block*>(first + i * step);
  };
  Words last = {};
  for (int64_t i = 0; i < count; ++i) {
    const Parts parts = PartsOf(ValuesOf(block(i)));
    uint16_t* to = y + i * kCompactBlock;
    LookUpHighHalves(block(i), parts.words[0], parts.words[1], to, to + part);
    last |= parts.words[2];
    __builtin_prefetch(first + (i + kBlocksAhead) * step);
  }
  if (!AnyBit(last)) return 2;
  for (int64_t i = 0; i < count; ++i) {
    const Words words = PartsOf(ValuesOf(block(i))).words[2];
    uint16_t unused[kCompactBlock];
    LookUpHighHalves(block(i), words, words, y + 2 * part + i * kCompactBlock, unused);
  }
  return kBf16Parts;
}

template <typename Block>
int SplitBlocks(const uint8_t* first, int64_t step, int64_t count, int64_t part, uint16_t* y) {
  Words last = {};
  for (int64_t i = 0; i < count; ++i, first += step, y += kCompactBlock) {
    __builtin_prefetch(first + kBlocksAhead * step);
    const BlockLanes wide = WidenBlock(*reinterpret_cast<const Block*>(first));
    const Parts left = PartsOf(wide.left), right = PartsOf(wide.right);
    for (int p = 0; p < kBf16Parts; ++p) {
      StoreHighHalves(left.words[p], y + p * part);
      StoreHighHalves(right.words[p], y + p * part + kLanes);
    }
    last |= left.words[kBf16Parts - 1] | right.words[kBf16Parts - 1];
  }
  return AnyBit(last) ? kBf16Parts : kBf16Parts - 1;
}

#if defined(EVOLORA_TILES)

constexpr bool kPrefersBf16x3 = true;

void GemmBf16x3(const Bf16x3GemmArgs& args) { GemmBf16x3ByTiles<EVOLORA_TILES>(args); }

#else

constexpr bool kPrefersBf16x3 = false;

// Part i of the left side times part j of the panel.
inline PairTerm TermOfParts(const Bf16x3Term& term, int i, int j) {
  return {.x = term.x + i * term.x_part,
          .ldx = term.ldx,
          .panel = term.panel + j * term.panel_part,
          .pairs = term.pairs};
}

// Smallest first, and each sum stored before the next begins: slow, for tests.
void GemmBf16x3(const Bf16x3GemmArgs& args) {
  GemmStore store = args.store;
  for (int64_t t = 0; t < args.num_terms; ++t) {
    const Bf16x3Term& term = args.terms[t];
    PairTerm terms[6];
    int count = 0;
    for (int size = kBf16Parts - 1; size >= 0; --size) {
      for (int j = 0; j <= size && j < term.panel_parts; ++j) {
        terms[count++] = TermOfParts(term, size - j, j);
      }
    }
    GemmPairs({.terms = terms,
               .num_terms = count,
               .rows = args.rows,
               .y = args.y,
               .ldy = args.ldy,
               .columns = args.columns,
               .store = store});
    store = GemmStore::kAdd;
  }
}

#endif
