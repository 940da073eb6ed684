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

#if defined(EVOLORA_AMX_TILES)

constexpr bool kPrefersBf16x3 = true;

void GemmBf16x3(const Bf16x3GemmArgs& args) { GemmBf16x3ByTiles<AmxTiles>(args); }

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
