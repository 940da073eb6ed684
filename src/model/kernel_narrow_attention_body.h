// Attention of narrow heads: a part of kernel_body.h, inside its unnamed namespace. A vector's
// lanes are 16 queries; keys come one after the other, and no more scores than those of a chunk of
// them are kept (Dao et al., arXiv 2205.14135). Products over so few values leave half of each
// vector empty, and take less time than storing their scores does.

// Keys that are looked at before the greatest score is corrected.
constexpr int64_t kNarrowChunk = 32;

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

// 16 queries, or the last of them. Their scores are powers of 2: times log2(e).
struct NarrowQueries {
  int64_t count;
  int64_t first_position;
  Integers positions;
  NarrowRows raw;
  alignas(64) NarrowColumns scaled;

  NarrowQueries(const NarrowAttention& a, int64_t first)
      : count(a.rows - first < kLanes ? a.rows - first : kLanes),
        first_position(a.first_position + first),
        positions(kLaneNumbers + static_cast<int32_t>(first_position)),
        raw(a.queries + first * a.ldq, a.ldq, count, a.width) {
    ToColumns(raw, a.scale * 1.44269504088896341f, scaled);
  }
  int64_t last_position() const { return first_position + count - 1; }
};

// The lanes whose queries see the key at `position`, `fill` in the others.
template <bool kAllSee>
inline Lanes SeenOf(const NarrowAttention& a, const NarrowQueries& queries, int64_t position,
                    Lanes values, float fill) {
  if constexpr (kAllSee) return values;
  const auto key = static_cast<int32_t>(position);
  // Without a window, nothing lies before it.
  const int32_t low = a.window > 0 ? static_cast<int32_t>(position + a.window) : 0x7fffffff;
  const Integers sees = (queries.positions >= key) & (queries.positions < low);
  return sees ? values : Splat(fill);
}

// Calls body(first, count, all see them) for the keys that some of the queries see, by chunks that
// begin at multiples of kNarrowChunk: what a query gets does not depend on those beside it.
template <typename Body>
inline void ForNarrowChunks(const NarrowAttention& a, const NarrowQueries& queries,
                            const Body& body) {
  const int64_t last = queries.last_position();
  const int64_t low = queries.first_position - a.window + 1;
  const int64_t begin = a.window > 0 && low > 0 ? low / kNarrowChunk * kNarrowChunk : 0;
  for (int64_t first = begin; first <= last; first += kNarrowChunk) {
    const int64_t count = last + 1 - first < kNarrowChunk ? last + 1 - first : kNarrowChunk;
    const bool all_see =
        first + count - 1 <= queries.first_position && (a.window == 0 || first > last - a.window);
    body(first, count, all_see);
  }
}

// The sum of columns[e] * row[e].
inline Lanes NarrowDot(const NarrowColumns& columns, const float* row) {
  Lanes even = columns[0] * row[0], odd = columns[1] * row[1];
  for (int64_t e = 2; e < kNarrowHead; e += 2) {
    even += columns[e] * row[e];
    odd += columns[e + 1] * row[e + 1];
  }
  return even + odd;
}
inline void AddNarrow(Lanes values, const float* row, NarrowColumns& sums) {
  for (int64_t e = 0; e < kNarrowHead; ++e) sums[e] += values * row[e];
}

// Softmax and weighted values of 16 queries, chunk by chunk.
struct NarrowSoftmax {
  Lanes max = Splat(-3e38f);
  Lanes sum = {};
  alignas(64) NarrowColumns values = {};

  template <bool kAllSee>
  inline void Add(const NarrowAttention& a, const NarrowQueries& queries, int64_t first,
                  int64_t count) {
    alignas(64) Lanes scores[kNarrowChunk];
    Lanes most = max;
    for (int64_t k = 0; k < count; ++k) {
      const float* key = a.keys + (first + k) * kNarrowHead;
      scores[k] = SeenOf<kAllSee>(a, queries, first + k, NarrowDot(queries.scaled, key), -3e38f);
      most = scores[k] > most ? scores[k] : most;
    }
    const Lanes shrink = Exp2(max - most);
    max = most;
    sum *= shrink;
    for (Lanes& value : values) value *= shrink;
    for (int64_t k = 0; k < count; ++k) {
      const Lanes p = SeenOf<kAllSee>(a, queries, first + k, Exp2(scores[k] - max), 0);
      sum += p;
      AddNarrow(p, a.values + (first + k) * kNarrowHead, values);
    }
  }
};

void AttendNarrow(const NarrowAttention& a, float* out, int64_t ldo) {
  for (int64_t row = 0; row < a.rows; row += kLanes) {
    const NarrowQueries queries(a, row);
    NarrowSoftmax softmax;
    ForNarrowChunks(a, queries, [&](int64_t first, int64_t count, bool all_see) {
      all_see ? softmax.Add<true>(a, queries, first, count)
              : softmax.Add<false>(a, queries, first, count);
    });
    const Lanes factor = 1.0f / softmax.sum;
    StoreAny(a.max + row, queries.count, softmax.max);
    StoreAny(a.factor + row, queries.count, factor);
    StoreNarrow(softmax.values, factor, queries.count, a.width, out + row * ldo, ldo);
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

// What the gradients of 16 queries are computed from, and theirs.
struct NarrowGradient {
  NarrowQueries queries;
  Lanes max, factor, delta;
  alignas(64) NarrowColumns d_out;
  alignas(64) NarrowColumns d_queries = {};
  alignas(64) Lanes sources[kLanes];  // of each query: pairs (query * scale, d_out)

  NarrowGradient(const NarrowAttention& a, const NarrowGradients& g, int64_t first)
      : queries(a, first),
        max(LoadAny(a.max + first, queries.count)),
        factor(LoadAny(a.factor + first, queries.count)) {
    float deltas[kLanes] = {};
    for (int64_t i = 0; i < queries.count; ++i) deltas[i] = g.delta[(first + i) * g.ld_delta];
    delta = LoadLanes(deltas);
    const NarrowRows raw(g.d_out + first * g.ldo, g.ldo, queries.count, a.width);
    ToColumns(raw, 1, d_out);
    for (int64_t i = 0; i < kLanes; ++i) {
      const HalfLanes query = queries.raw.rows[i] * a.scale;
      sources[i] = __builtin_shufflevector(query, raw.rows[i], 0, 8, 1, 9, 2, 10, 3, 11, 4, 12, 5,
                                           13, 6, 14, 7, 15);
    }
  }

  // gradients [count, 8] of pairs (d_key, d_value) += weights^T sources; weights [count, 16] of
  // pairs (d_score, weight).
  inline void AddToKeys(const float* weights, int64_t count, float* gradients) const {
    for (int64_t k = 0; k < count; ++k) {
      const float* weight = weights + k * 2 * kLanes;
      Lanes even = {}, odd = {};
      for (int64_t i = 0; i < kLanes; i += 2) {
        even += SplatPair(weight + 2 * i) * sources[i];
        odd += SplatPair(weight + 2 * i + 2) * sources[i + 1];
      }
      Lanes* gradient = reinterpret_cast<Lanes*>(gradients + k * 2 * kNarrowHead);
      *gradient += even + odd;
    }
  }

  template <bool kAllSee>
  inline void Add(const NarrowAttention& a, int64_t first, int64_t count, float* d_keys_values) {
    alignas(64) Lanes weights[kNarrowChunk];
    alignas(64) float pairs[kNarrowChunk * 2 * kLanes];  // (d_score, weight)
    const float* keys = a.keys + first * kNarrowHead;
    const float* values = a.values + first * kNarrowHead;
    for (int64_t k = 0; k < count; ++k) {
      const Lanes score = NarrowDot(queries.scaled, keys + k * kNarrowHead);
      weights[k] = SeenOf<kAllSee>(a, queries, first + k, factor * Exp2(score - max), 0);
    }
    for (int64_t k = 0; k < count; ++k) {
      const Lanes d_weight = NarrowDot(d_out, values + k * kNarrowHead);
      const Lanes d_score = weights[k] * (d_weight - delta);
      AddNarrow(d_score, keys + k * kNarrowHead, d_queries);
      StoreLanes(pairs + k * 2 * kLanes, PairLow(d_score, weights[k]));
      StoreLanes(pairs + k * 2 * kLanes + kLanes, PairHigh(d_score, weights[k]));
    }
    AddToKeys(pairs, count, d_keys_values + first * 2 * kNarrowHead);
  }
};

void AttendNarrowGradient(const NarrowAttention& a, const NarrowGradients& g) {
  for (int64_t row = 0; row < a.rows; row += kLanes) {
    NarrowGradient gradient(a, g, row);
    ForNarrowChunks(a, gradient.queries, [&](int64_t first, int64_t keys, bool all_see) {
      all_see ? gradient.Add<true>(a, first, keys, g.d_keys_values)
              : gradient.Add<false>(a, first, keys, g.d_keys_values);
    });
    StoreNarrow(gradient.d_queries, Splat(a.scale), gradient.queries.count, a.width,
                g.d_queries + row * a.ldq, a.ldq);
  }
}
