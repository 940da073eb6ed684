// Attention of narrow heads: a part of kernel_body.h, inside its unnamed namespace. A vector's
// lanes are 16 queries; keys come one after the other, and no more scores than those of a chunk of
// them are kept (Dao et al., arXiv 2205.14135). Products over so few values leave half of each
// vector empty, and take less time than storing their scores does.

// Keys that are looked at before the greatest score is corrected.
constexpr int64_t kNarrowChunk = 32;

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
