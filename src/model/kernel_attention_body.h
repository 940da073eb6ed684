// The loops of attention between its products: a part of kernel_body.h, inside its unnamed
// namespace.

// The lanes of a vector at `first` that lie in [low, end), `fill` in the others.
inline Lanes Inside(Lanes values, int64_t first, int64_t low, int64_t end, float fill) {
  const Integers lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  const Integers i = lane + static_cast<int32_t>(first);
  const Integers inside = (i >= static_cast<int32_t>(low)) & (i < static_cast<int32_t>(end));
  return inside ? values : Splat(fill);
}

// What one query sees: columns [low, end), within the whole vectors [begin, limit).
struct SeenColumns {
  int64_t low, end, begin, limit;
  bool has_all(int64_t j) const { return j >= low && j + kLanes <= end; }
};

inline SeenColumns SeenBy(const AttentionRows& a, int64_t row) {
  SeenColumns seen = {};
  seen.end = a.first_position + row + 1;
  if (a.window > 0 && seen.end > a.window) seen.low = seen.end - a.window;
  seen.begin = seen.low / kLanes * kLanes;
  seen.limit = (seen.end + kLanes - 1) / kLanes * kLanes;
  return seen;
}

inline void ZeroUnseen(const SeenColumns& seen, int64_t columns, float* row) {
  for (int64_t j = 0; j < seen.begin; j += kLanes) StoreLanes(row + j, Lanes{});
  for (int64_t j = seen.limit; j < columns; j += kLanes) StoreLanes(row + j, Lanes{});
}

void AttentionWeights(const AttentionRows& a) {
  for (int64_t i = 0; i < a.rows; ++i) {
    const SeenColumns seen = SeenBy(a, i);
    float* row = a.scores + i * a.ld;
    const float some = row[seen.low];
    Lanes most = Splat(some);
    for (int64_t j = seen.begin; j < seen.limit; j += kLanes) {
      Lanes s = LoadLanes(row + j);
      if (!seen.has_all(j)) s = Inside(s, j, seen.low, seen.end, some);
      most = s > most ? s : most;
    }
    const float max = MaxLanes(most);
    Lanes sums = {};
    for (int64_t j = seen.begin; j < seen.limit; j += kLanes) {
      Lanes p = Exp((LoadLanes(row + j) - max) * a.scale);
      if (!seen.has_all(j)) p = Inside(p, j, seen.low, seen.end, 0);
      StoreLanes(row + j, p);
      sums += p;
    }
    ZeroUnseen(seen, a.columns, row);
    a.max[i] = max;
    a.factor[i] = RoundToFloat(1.0 / SumLanes(sums));
  }
}

void AttentionGradient(const AttentionRows& a, const float* delta, float* d_weights) {
  for (int64_t i = 0; i < a.rows; ++i) {
    const SeenColumns seen = SeenBy(a, i);
    float* row = a.scores + i * a.ld;
    float* d_row = d_weights + i * a.ld;
    const float max = a.max[i], factor = a.factor[i], d_mean = delta[i];
    for (int64_t j = seen.begin; j < seen.limit; j += kLanes) {
      Lanes p = factor * Exp((LoadLanes(row + j) - max) * a.scale);
      if (!seen.has_all(j)) p = Inside(p, j, seen.low, seen.end, 0);
      StoreLanes(row + j, p);
      StoreLanes(d_row + j, a.scale * p * (LoadLanes(d_row + j) - d_mean));
    }
    ZeroUnseen(seen, a.columns, row);
    ZeroUnseen(seen, a.columns, d_row);
  }
}
