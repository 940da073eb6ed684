// fp32 numbers by three bf16 parts each, for the products of kernel_word_split_body.h: a part of
// kernel_body.h, inside its unnamed namespace.

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
    sums[k / kCompactBlock] = SumOfLanes(sum);
  }
}
