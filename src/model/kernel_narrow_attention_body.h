// Attention of narrow heads: a part of kernel_body.h, inside its unnamed namespace. A vector's
// lanes are 16 queries; keys come one after the other, and no more scores than those of a chunk of
// them are kept (Dao et al., arXiv 2205.14135). Products over so few values leave half of each
// vector empty, and take less time than storing their scores does.

// Keys that are looked at before the greatest score is corrected.
constexpr int64_t kNarrowChunk = 16;

// factor * [count, width] values as rows and as columns, zeros elsewhere.
struct NarrowRows {
  NarrowRows(const float* values, int64_t ld, int64_t count, int64_t width, float factor) {
    for (int64_t i = 0; i < count; ++i) {
      for (int64_t e = 0; e < width; ++e) rows[i][e] = factor * values[i * ld + e];
    }
    for (int64_t e = 0; e < kNarrowHead; ++e) {
      alignas(64) float column[kLanes];
      for (int64_t i = 0; i < kLanes; ++i) column[i] = rows[i][e];
      columns[e] = LoadLanes(column);
    }
  }
  alignas(64) float rows[kLanes][kNarrowHead] = {};
  alignas(64) Lanes columns[kNarrowHead];
};

// 16 queries, or the last of them.
struct NarrowQueries {
  int64_t count;
  int64_t first_position;
  Integers positions;
  NarrowRows scaled;

  int64_t last_position() const { return first_position + count - 1; }
};

inline NarrowQueries NarrowQueriesAt(const NarrowAttention& a, int64_t first) {
  const Integers lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const int64_t count = a.rows - first < kLanes ? a.rows - first : kLanes;
  const int64_t position = a.first_position + first;
  return {count, position, lane + static_cast<int32_t>(position),
          NarrowRows(a.queries + first * a.ldq, a.ldq, count, a.width, a.scale)};
}

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
inline Lanes NarrowDot(const Lanes* columns, const float* row) {
  Lanes sum = columns[0] * row[0];
  for (int64_t e = 1; e < kNarrowHead; ++e) sum += columns[e] * row[e];
  return sum;
}
inline void AddNarrow(Lanes values, const float* row, Lanes* sums) {
  for (int64_t e = 0; e < kNarrowHead; ++e) sums[e] += values * row[e];
}

// Softmax and weighted values of 16 queries, chunk by chunk.
struct NarrowSoftmax {
  Lanes max = Splat(-3e38f);
  Lanes sum = {};
  alignas(64) Lanes values[kNarrowHead] = {};

  template <bool kAllSee>
  inline void Add(const NarrowAttention& a, const NarrowQueries& queries, const Lanes* columns,
                  int64_t first, int64_t count) {
    alignas(64) Lanes scores[kNarrowChunk];
    Lanes most = max;
    for (int64_t k = 0; k < count; ++k) {
      scores[k] = SeenOf<kAllSee>(a, queries, first + k,
                                  NarrowDot(columns, a.keys + (first + k) * kNarrowHead), -3e38f);
      most = scores[k] > most ? scores[k] : most;
    }
    const Lanes shrink = Exp(max - most);
    max = most;
    sum *= shrink;
    for (Lanes& value : values) value *= shrink;
    for (int64_t k = 0; k < count; ++k) {
      const Lanes p = SeenOf<kAllSee>(a, queries, first + k, Exp(scores[k] - max), 0);
      sum += p;
      AddNarrow(p, a.values + (first + k) * kNarrowHead, values);
    }
  }
};

// Lanes as rows [count, width].
inline void StoreNarrow(const Lanes* lanes, int64_t count, int64_t width, float* rows, int64_t ld) {
  alignas(64) float columns[kNarrowHead][kLanes];
  for (int64_t e = 0; e < kNarrowHead; ++e) StoreLanes(columns[e], lanes[e]);
  for (int64_t i = 0; i < count; ++i) {
    for (int64_t e = 0; e < width; ++e) rows[i * ld + e] = columns[e][i];
  }
}

void AttendNarrow(const NarrowAttention& a, float* out, int64_t ldo) {
  for (int64_t row = 0; row < a.rows; row += kLanes) {
    const NarrowQueries queries = NarrowQueriesAt(a, row);
    const Lanes* columns = queries.scaled.columns;
    NarrowSoftmax softmax;
    ForNarrowChunks(a, queries, [&](int64_t first, int64_t count, bool all_see) {
      all_see ? softmax.Add<true>(a, queries, columns, first, count)
              : softmax.Add<false>(a, queries, columns, first, count);
    });
    const Lanes factor = 1.0f / softmax.sum;
    for (Lanes& value : softmax.values) value *= factor;
    StoreAny(a.max + row, queries.count, softmax.max);
    StoreAny(a.factor + row, queries.count, factor);
    StoreNarrow(softmax.values, queries.count, a.width, out + row * ldo, ldo);
  }
}

// gradients [positions, 8] += weights^T rows, of one chunk: weights[k][i] of key k and query i.
inline void AddNarrowGradients(const Lanes* weights, const NarrowRows& of, int64_t count,
                               float* gradients) {
  const HalfLanes* rows = reinterpret_cast<const HalfLanes*>(of.rows);
  for (int64_t k = 0; k < count; ++k) {
    HalfLanes* gradient = reinterpret_cast<HalfLanes*>(gradients + k * kNarrowHead);
    const float* weight = reinterpret_cast<const float*>(weights + k);
    HalfLanes even = rows[0] * weight[0], odd = rows[1] * weight[1];
    for (int64_t i = 2; i < kLanes; i += 2) {
      even += rows[i] * weight[i];
      odd += rows[i + 1] * weight[i + 1];
    }
    *gradient += even + odd;
  }
}

// What the gradients of 16 queries are computed from, and theirs.
struct NarrowGradient {
  NarrowQueries queries;
  NarrowRows d_out;
  Lanes max, factor, delta;
  alignas(64) Lanes d_queries[kNarrowHead] = {};

  template <bool kAllSee>
  inline void Add(const NarrowAttention& a, int64_t first, int64_t count, float* d_keys,
                  float* d_values) {
    alignas(64) Lanes weights[kNarrowChunk];
    alignas(64) Lanes d_scores[kNarrowChunk];
    for (int64_t k = 0; k < count; ++k) {
      const float* key = a.keys + (first + k) * kNarrowHead;
      const Lanes p = SeenOf<kAllSee>(
          a, queries, first + k, factor * Exp(NarrowDot(queries.scaled.columns, key) - max), 0);
      const Lanes d_weight = NarrowDot(d_out.columns, a.values + (first + k) * kNarrowHead);
      weights[k] = p;
      d_scores[k] = p * (d_weight - delta);
      AddNarrow(d_scores[k], key, d_queries);
    }
    AddNarrowGradients(d_scores, queries.scaled, count, d_keys + first * kNarrowHead);
    AddNarrowGradients(weights, d_out, count, d_values + first * kNarrowHead);
  }
};

void AttendNarrowGradient(const NarrowAttention& a, const NarrowGradients& g) {
  for (int64_t row = 0; row < a.rows; row += kLanes) {
    const NarrowQueries queries = NarrowQueriesAt(a, row);
    const int64_t count = queries.count;
    float delta[kLanes] = {};
    for (int64_t i = 0; i < count; ++i) delta[i] = g.delta[(row + i) * g.ld_delta];
    NarrowGradient gradient = {
        .queries = queries,
        .d_out = NarrowRows(g.d_out + row * g.ldo, g.ldo, count, a.width, 1),
        .max = LoadAny(a.max + row, count),
        .factor = LoadAny(a.factor + row, count),
        .delta = LoadLanes(delta),
    };
    ForNarrowChunks(a, gradient.queries, [&](int64_t first, int64_t keys, bool all_see) {
      all_see ? gradient.Add<true>(a, first, keys, g.d_keys, g.d_values)
              : gradient.Add<false>(a, first, keys, g.d_keys, g.d_values);
    });
    for (Lanes& d_query : gradient.d_queries) d_query *= a.scale;
    StoreNarrow(gradient.d_queries, count, a.width, g.d_queries + row * a.ldq, a.ldq);
  }
}
