// Vectors of 16 values: a part of kernel_body.h, inside its unnamed namespace.

constexpr int kLanes = 16;
typedef float Lanes __attribute__((vector_size(64), aligned(4)));
typedef int32_t Integers __attribute__((vector_size(64), aligned(4)));
typedef uint32_t Words __attribute__((vector_size(64), aligned(4)));

inline float RoundToFloat(double x) { return static_cast<float>(x); }

inline Lanes Splat(float value) { return Lanes{} + value; }

inline Lanes LoadLanes(const float* values) { return *reinterpret_cast<const Lanes*>(values); }
inline void StoreLanes(float* values, Lanes lanes) { *reinterpret_cast<Lanes*>(values) = lanes; }

// The first `count` < 16 values, `fill` behind them.
inline Lanes LoadSome(const float* values, int64_t count, float fill) {
  Lanes lanes = Splat(fill);
  __builtin_memcpy(&lanes, values, static_cast<uint64_t>(count) * sizeof(float));
  return lanes;
}
inline void StoreSome(float* values, int64_t count, Lanes lanes) {
  __builtin_memcpy(values, &lanes, static_cast<uint64_t>(count) * sizeof(float));
}

// The first `count` lanes, zero behind them.
inline Lanes FirstOf(Lanes lanes, int64_t count) {
  Lanes first = {};
  __builtin_memcpy(&first, &lanes, static_cast<uint64_t>(count) * sizeof(float));
  return first;
}

// 1.5 * 2^23: a number added to it is rounded to an integer, which the sum's low bits are.
constexpr float kRounding = 12582912.0f;
// 2^n of such a sum; n from -126 to 127.
inline Lanes PowerOf2(Lanes shifted) { return (Lanes)(((Integers)shifted << 23) + (127 << 23)); }

// exp(x) within 2 ulp (range reduction as in Cephes expf, degree 6, least greatest error); 0 below
// -87.
inline Lanes Exp(Lanes x) {
  const Lanes least = Splat(-87.0f), most = Splat(88.0f);
  const Lanes magic = Splat(kRounding);
  const Lanes above = x < least ? least : x;
  const Lanes clamped = above > most ? most : above;
  const Lanes shifted = clamped * 1.44269504088896341f + magic;
  const Lanes n = shifted - magic;
  Lanes r = clamped - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  const Lanes r2 = r * r;
  Lanes p = r2 * 1.38146128e-3f + (r * 8.36871006e-3f + 4.1668389e-2f);
  p = p * r2 + (r * 1.66665211e-1f + 4.9999994e-1f);
  p = p * r2 + (r + 1.0f);
  return x < least ? Lanes{} : p * PowerOf2(shifted);
}

// 2^x for x <= 0 likewise; 2^-126 below -126.
inline Lanes Exp2(Lanes x) {
  const Lanes least = Splat(-126.0f), magic = Splat(kRounding);
  const Lanes clamped = x < least ? least : x;
  const Lanes shifted = clamped + magic;
  const Lanes r = clamped - (shifted - magic);
  const Lanes r2 = r * r;
  Lanes p = r2 * 1.5353362e-4f + (r * 1.3398875e-3f + 9.61843692e-3f);
  p = p * r2 + (r * 5.55033237e-2f + 2.40226477e-1f);
  p = p * r2 + (r * 6.93147182e-1f + 1.0f);
  return p * PowerOf2(shifted);
}

// Calls body(i, 16) for whole vectors of n values, then body(i, count) for the rest.
template <typename Body>
inline void ForLanes(int64_t n, const Body& body) {
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) body(i, kLanes);
  if (i < n) body(i, n - i);
}
inline Lanes LoadAny(const float* values, int64_t count, float fill = 0) {
  return count == kLanes ? LoadLanes(values) : LoadSome(values, count, fill);
}
inline void StoreAny(float* values, int64_t count, Lanes lanes) {
  count == kLanes ? StoreLanes(values, lanes) : StoreSome(values, count, lanes);
}

// Pointers to these are not declared with auto, which drops the alignment.
typedef float HalfLanes __attribute__((vector_size(32), aligned(4)));
typedef double Doubles __attribute__((vector_size(64), aligned(8)));
inline HalfLanes LowHalf(Lanes x) { return __builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7); }
inline HalfLanes HighHalf(Lanes x) {
  return __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15);
}

// Adds 16 partial sums: halves, quarters and so on, the same in every table.
inline double SumLanes(Doubles low, Doubles high) {
  const Doubles eight = low + high;
  const auto four = __builtin_shufflevector(eight, eight, 0, 1, 2, 3) +
                    __builtin_shufflevector(eight, eight, 4, 5, 6, 7);
  return (four[0] + four[2]) + (four[1] + four[3]);
}
inline double SumLanes(const double* lanes) {
  const Doubles* halves = reinterpret_cast<const Doubles*>(lanes);
  return SumLanes(halves[0], halves[1]);
}
inline double SumLanes(Lanes lanes) {
  return SumLanes(__builtin_convertvector(LowHalf(lanes), Doubles),
                  __builtin_convertvector(HighHalf(lanes), Doubles));
}

// The same in fp32.
inline float SumOfLanes(Lanes lanes) {
  const HalfLanes eight = LowHalf(lanes) + HighHalf(lanes);
  const auto four = __builtin_shufflevector(eight, eight, 0, 1, 2, 3) +
                    __builtin_shufflevector(eight, eight, 4, 5, 6, 7);
  return (four[0] + four[2]) + (four[1] + four[3]);
}

inline float MaxLanes(Lanes lanes) {
  const auto greater = [](auto a, auto b) { return a > b ? a : b; };
  const HalfLanes eight = greater(HighHalf(lanes), LowHalf(lanes));
  const auto four = greater(__builtin_shufflevector(eight, eight, 4, 5, 6, 7),
                            __builtin_shufflevector(eight, eight, 0, 1, 2, 3));
  return greater(greater(four[0], four[2]), greater(four[1], four[3]));
}
