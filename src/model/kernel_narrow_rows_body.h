// Rows of narrow heads as columns, and back: a part of kernel_body.h, inside its unnamed namespace.

// Rows [count <= 16, width <= 8] of a head, zeros elsewhere.
struct NarrowRows {
  alignas(64) HalfLanes rows[kLanes];

  NarrowRows(const float* values, int64_t ld, int64_t count, int64_t width) {
    if (count == kLanes && width == kNarrowHead) {
      for (int64_t i = 0; i < kLanes; ++i) {
        rows[i] = *reinterpret_cast<const HalfLanes*>(values + i * ld);
      }
      return;
    }
    for (HalfLanes& row : rows) row = HalfLanes{};
    for (int64_t i = 0; i < count; ++i) {
      __builtin_memcpy(&rows[i], values + i * ld, static_cast<uint64_t>(width) * sizeof(float));
    }
  }
};

constexpr Integers kLaneNumbers = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};

// The columns of rows: columns[e][i] = rows[i][e].
using NarrowColumns = Lanes[kNarrowHead];

// Four quarters of 4 lanes: 0 to 3 are those of a, 4 to 7 those of b.
template <int k0, int k1, int k2, int k3>
inline Lanes JoinQuarters(Lanes a, Lanes b) {
  return __builtin_shufflevector(a, b, 4 * k0, 4 * k0 + 1, 4 * k0 + 2, 4 * k0 + 3,  //
                                 4 * k1, 4 * k1 + 1, 4 * k1 + 2, 4 * k1 + 3,        //
                                 4 * k2, 4 * k2 + 1, 4 * k2 + 2, 4 * k2 + 3,        //
                                 4 * k3, 4 * k3 + 1, 4 * k3 + 2, 4 * k3 + 3);
}

// Each quarter of the four vectors is a row of a 4 x 4 matrix: transposed.
inline void TransposeQuarters(Lanes* v) {
  const auto low = [](Lanes a, Lanes b) {
    return __builtin_shufflevector(a, b, 0, 16, 1, 17, 4, 20, 5, 21, 8, 24, 9, 25, 12, 28, 13, 29);
  };
  const auto high = [](Lanes a, Lanes b) {
    return __builtin_shufflevector(a, b, 2, 18, 3, 19, 6, 22, 7, 23, 10, 26, 11, 27, 14, 30, 15,
                                   31);
  };
  const Lanes low02 = low(v[0], v[2]), low13 = low(v[1], v[3]);
  const Lanes high02 = high(v[0], v[2]), high13 = high(v[1], v[3]);
  v[0] = low(low02, low13);
  v[1] = high(low02, low13);
  v[2] = low(high02, high13);
  v[3] = high(high02, high13);
}

inline void ToColumns(const NarrowRows& x, float factor, NarrowColumns& columns) {
  const auto joined = [&](int64_t i) {
    return __builtin_shufflevector(x.rows[i], x.rows[i + 4], 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11,
                                   12, 13, 14, 15);
  };
  Lanes first[4], second[4];  // rows 0 to 7 and 8 to 15
  for (int64_t i = 0; i < 4; ++i) {
    first[i] = joined(i) * factor;
    second[i] = joined(8 + i) * factor;
  }
  TransposeQuarters(first);
  TransposeQuarters(second);
  for (int64_t e = 0; e < 4; ++e) {
    columns[e] = JoinQuarters<0, 2, 4, 6>(first[e], second[e]);
    columns[4 + e] = JoinQuarters<1, 3, 5, 7>(first[e], second[e]);
  }
}

// factor * columns as rows [count, width].
inline void StoreNarrow(const NarrowColumns& columns, Lanes factor, int64_t count, int64_t width,
                        float* rows, int64_t ld) {
  const auto store = [&](int64_t i, HalfLanes values) {
    if (i >= count) return;
    if (width == kNarrowHead) {
      *reinterpret_cast<HalfLanes*>(rows + i * ld) = values;
    } else {
      __builtin_memcpy(rows + i * ld, &values, static_cast<uint64_t>(width) * sizeof(float));
    }
  };
  Lanes first[4], second[4];  // rows 0 to 7 and 8 to 15
  for (int64_t e = 0; e < 4; ++e) {
    const Lanes a = columns[e] * factor, b = columns[4 + e] * factor;
    first[e] = JoinQuarters<0, 4, 1, 5>(a, b);
    second[e] = JoinQuarters<2, 6, 3, 7>(a, b);
  }
  TransposeQuarters(first);
  TransposeQuarters(second);
  for (int64_t i = 0; i < 4; ++i) {
    store(i, LowHalf(first[i]));
    store(4 + i, HighHalf(first[i]));
    store(8 + i, LowHalf(second[i]));
    store(12 + i, HighHalf(second[i]));
  }
}

// Pairs of lanes (a0, b0, a1, b1, ..), the first eight of them and the last.
inline Lanes PairLow(Lanes a, Lanes b) {
  return __builtin_shufflevector(a, b, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23);
}
inline Lanes PairHigh(Lanes a, Lanes b) {
  return __builtin_shufflevector(a, b, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15,
                                 31);
}

// A pair of values in all pairs of lanes.
inline Lanes SplatPair(const float* pair) {
  typedef int64_t Pairs __attribute__((vector_size(64)));
  int64_t bits;
  __builtin_memcpy(&bits, pair, sizeof(bits));
  return (Lanes)(Pairs{} + bits);
}
