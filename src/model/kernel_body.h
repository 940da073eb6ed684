// The loops behind one KernelTable. Included by kernels_<isa>.cc after EVOLORA_KERNEL_TABLE (name
// of the table), EVOLORA_KERNEL_NAME, EVOLORA_GEMM_ROWS (rows of one register block) and, where
// there are tiles, EVOLORA_TILES (their class, kernel_tile_body.h) are defined, and compiled with
// that instruction set's flags. Everything has internal linkage and no standard function is called,
// so that no code compiled for a newer CPU can be merged into other files.

#if defined(__AVX2__)
#include <immintrin.h>
#endif

#include <cstdint>

#include "evolora/model/kernels.h"

#if defined(EVOLORA_TILES)
#include "kernel_tile_body.h"
#endif

namespace evolora {
namespace {

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

// exp(x) within 2 ulp (range reduction and degree-6 polynomial as in Cephes expf); 0 below -87.
inline Lanes Exp(Lanes x) {
  const Lanes least = Splat(-87.0f), most = Splat(88.0f);
  const Lanes magic = Splat(12582912.0f);  // 1.5 * 2^23: adding it rounds to an integer
  const Lanes above = x < least ? least : x;
  const Lanes clamped = above > most ? most : above;
  const Lanes shifted = clamped * 1.44269504088896341f + magic;
  const Lanes n = shifted - magic;
  Lanes r = clamped - n * 0.693359375f;
  r = r + n * 2.12194440e-4f;
  Lanes p = Splat(1.9875691500e-4f);
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  const Lanes y = p * (r * r) + (r + 1.0f);
  // The low bits of the shifted number are n.
  const Integers exponent = ((Integers)shifted - (Integers)magic + 127) << 23;
  return x < least ? Lanes{} : y * (Lanes)exponent;
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

// How far ahead of the sums a panel with distant rows is fetched.
constexpr int64_t kRowsAhead = 32;

// kVectors: 1 for up to 16 columns, 2 for up to 32.
template <int kRows, int kVectors>
using Sums = Lanes[kRows][kVectors];

// Adds a term's product for kRows rows. kCopy: also writes the panel to term.copy.
template <int kRows, int kVectors, bool kTransposed, bool kCopy>
__attribute__((always_inline)) inline void AddTerm(const GemmTerm& term, int64_t first_row,
                                                   const float* panel, int64_t ldp,
                                                   Sums<kRows, kVectors>& sums) {
  const float* x = term.x + (kTransposed ? first_row : first_row * term.ldx);
  const int64_t row_step = kTransposed ? 1 : term.ldx;
  const int64_t depth_step = kTransposed ? term.ldx : 1;
  float* copy = term.copy;
  const float* next = term.next != nullptr ? term.next : panel;
  for (int64_t k = 0; k < term.depth; ++k) {
    Lanes columns[kVectors];
    for (int v = 0; v < kVectors; ++v) {
      columns[v] = *reinterpret_cast<const Lanes*>(panel + v * kLanes);
      if constexpr (kCopy) {
        __builtin_prefetch(panel + kRowsAhead * ldp + v * kLanes);
        *reinterpret_cast<Lanes*>(copy + v * kLanes) = columns[v];
      }
    }
    for (int i = 0; i < kRows; ++i) {
      const float value = x[i * row_step];
      for (int v = 0; v < kVectors; ++v) sums[i][v] += value * columns[v];
    }
    if constexpr (!kTransposed && !kCopy) {
      for (int v = 0; v < kVectors; ++v) __builtin_prefetch(next + v * kLanes, 0, 2);
      next += kPanelColumns;
    }
    panel += ldp;
    x += depth_step;
    if constexpr (kCopy) copy += kPanelColumns;
  }
}

template <int kRows, int kVectors>
__attribute__((always_inline)) inline void AddTermOfAnyKind(const GemmTerm& term, int64_t first_row,
                                                            Sums<kRows, kVectors>& sums) {
  const bool copied = term.copy != nullptr && first_row > 0;
  const float* panel = copied ? term.copy : term.panel;
  const int64_t ldp = copied ? kPanelColumns : term.ldp;
  if constexpr (kVectors == 2) {
    if (term.copy != nullptr && !copied) {
      if (term.transposed) return AddTerm<kRows, 2, true, true>(term, 0, panel, ldp, sums);
      return AddTerm<kRows, 2, false, true>(term, 0, panel, ldp, sums);
    }
  }
  if (term.transposed) {
    return AddTerm<kRows, kVectors, true, false>(term, first_row, panel, ldp, sums);
  }
  AddTerm<kRows, kVectors, false, false>(term, first_row, panel, ldp, sums);
}

// Of GemmArgs or PairGemmArgs.
template <int kRows, int kVectors, typename Args>
__attribute__((always_inline)) inline void ClearSums(const Args& args, int64_t first_row,
                                                     Sums<kRows, kVectors>& sums) {
  for (int i = 0; i < kRows; ++i) {
    for (int v = 0; v < kVectors; ++v) {
      sums[i][v] = Lanes{};
      // What the last store would wait for.
      __builtin_prefetch(args.y + (first_row + i) * args.ldy + v * kLanes, 1);
    }
  }
}

template <int kRows, int kVectors, typename Args>
__attribute__((always_inline)) inline void StoreSums(const Args& args, int64_t first_row,
                                                     const Sums<kRows, kVectors>& sums) {
  const bool add = args.store == GemmStore::kAdd;
  for (int i = 0; i < kRows; ++i) {
    float* y = args.y + (first_row + i) * args.ldy;
    if (args.columns == kVectors * kLanes) {
      for (int v = 0; v < kVectors; ++v) {
        Lanes* out = reinterpret_cast<Lanes*>(y + v * kLanes);
        *out = add ? *out + sums[i][v] : sums[i][v];
      }
      continue;
    }
    float row[kPanelColumns] = {};
    for (int v = 0; v < kVectors; ++v) *reinterpret_cast<Lanes*>(row + v * kLanes) = sums[i][v];
    for (int64_t j = 0; j < args.columns; ++j) y[j] = add ? y[j] + row[j] : row[j];
  }
}

template <int kRows, int kVectors>
__attribute__((always_inline)) inline void GemmBlock(const GemmArgs& args, int64_t first_row) {
  Sums<kRows, kVectors> sums;
  ClearSums<kRows, kVectors>(args, first_row, sums);
  for (int64_t t = 0; t < args.num_terms; ++t) {
    AddTermOfAnyKind<kRows, kVectors>(args.terms[t], first_row, sums);
  }
  StoreSums<kRows, kVectors>(args, first_row, sums);
}

#include "kernel_pairs_body.h"
#include "kernel_widen_body.h"

// Runs the block of exactly `rows` <= kRows rows.
template <int kRows, int kVectors, typename Args>
__attribute__((always_inline)) inline void GemmTail(const Args& args, int64_t first_row,
                                                    int64_t rows) {
  if (rows == kRows) return GemmBlock<kRows, kVectors>(args, first_row);
  if constexpr (kRows > 1) GemmTail<kRows - 1, kVectors>(args, first_row, rows);
}

inline int64_t RowsOfBlock(int64_t left) {
  if (left <= EVOLORA_GEMM_ROWS) return left;
  // Two even blocks beat a full one and a stump.
  return left < 2 * EVOLORA_GEMM_ROWS ? (left + 1) / 2 : EVOLORA_GEMM_ROWS;
}

template <int kVectors, typename Args>
void GemmRows(const Args& args) {
  int64_t row = 0;
  while (row < args.rows) {
    const int64_t take = RowsOfBlock(args.rows - row);
    GemmTail<EVOLORA_GEMM_ROWS, kVectors>(args, row, take);
    row += take;
  }
}

void Gemm(const GemmArgs& args) {
  return args.columns > kLanes ? GemmRows<2>(args) : GemmRows<1>(args);
}

void GemmPairs(const PairGemmArgs& args) {
#if defined(EVOLORA_TILES)
  GemmPairsByTiles<EVOLORA_TILES>(args);
#else
  return args.columns > kLanes ? GemmRows<2>(args) : GemmRows<1>(args);
#endif
}

#include "kernel_few_bits_body.h"

inline float RmsFactor(const float* x, int64_t n, float eps) {
  double lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int j = 0; j < kLanes; ++j) lanes[j] += static_cast<double>(x[i + j]) * x[i + j];
  }
  for (; i < n; ++i) lanes[i % kLanes] += static_cast<double>(x[i]) * x[i];
  const float mean = RoundToFloat(SumLanes(lanes) / static_cast<double>(n));
  return 1.0f / __builtin_sqrtf(mean + eps);
}

void RmsNorm(const float* x, const float* weight, int64_t n, float eps, float* y) {
  const float factor = RmsFactor(x, n, eps);
  for (int64_t j = 0; j < n; ++j) y[j] = weight[j] * (x[j] * factor);
}

// Heads of 8 values, each one vector.
inline void RotateNarrow(float* heads, int64_t count, const float* cos, const float* sin) {
  const HalfLanes c = {cos[0], cos[1], cos[2], cos[3], cos[0], cos[1], cos[2], cos[3]};
  const HalfLanes s = {-sin[0], -sin[1], -sin[2], -sin[3], sin[0], sin[1], sin[2], sin[3]};
  HalfLanes* head = reinterpret_cast<HalfLanes*>(heads);
  for (int64_t h = 0; h < count; ++h) {
    head[h] = head[h] * c + __builtin_shufflevector(head[h], head[h], 4, 5, 6, 7, 0, 1, 2, 3) * s;
  }
}

void Rotate(float* heads, int64_t count, const float* cos, const float* sin, int64_t half) {
  if (half == 4) return RotateNarrow(heads, count, cos, sin);
  for (float* head = heads; head < heads + count * 2 * half; head += 2 * half) {
    for (int64_t i = 0; i < half; ++i) {
      const float a = head[i];
      const float b = head[i + half];
      head[i] = a * cos[i] - b * sin[i];
      head[i + half] = b * cos[i] + a * sin[i];
    }
  }
}

void SiluMul(const float* gate, const float* up, int64_t n, float* y) {
  ForLanes(n, [=](int64_t i, int64_t count) {
    const Lanes g = LoadAny(gate + i, count);
    StoreAny(y + i, count, g / (1.0f + Exp(-g)) * LoadAny(up + i, count));
  });
}

inline float Max(const float* x, int64_t n) {
  Lanes most = Splat(x[0]);
  ForLanes(n, [&](int64_t i, int64_t count) {
    const Lanes values = LoadAny(x + i, count, x[0]);
    most = values > most ? values : most;
  });
  return MaxLanes(most);
}

void Softmax(float* x, int64_t n, float scale) {
  const float max = Max(x, n);
  Lanes sums = {};
  ForLanes(n, [&](int64_t i, int64_t count) {
    const Lanes values = Exp((LoadAny(x + i, count, max) - max) * scale);
    StoreAny(x + i, count, values);
    sums += count == kLanes ? values : FirstOf(values, count);
  });
  const float factor = RoundToFloat(1.0 / SumLanes(sums));
  for (int64_t j = 0; j < n; ++j) x[j] *= factor;
}

double LogSumExp(const float* x, int64_t n) {
  const float max = Max(x, n);
  double lanes[kLanes] = {};
  for (int64_t i = 0; i < n;) {
    // In fp32 only as far as no digit is lost.
    Lanes part = {};
    const int64_t end = n - i > 16 * kLanes ? i + 16 * kLanes : n;
    for (; i + kLanes <= end; i += kLanes) part += Exp(LoadLanes(x + i) - max);
    if (i < end) {
      part += FirstOf(Exp(LoadSome(x + i, end - i, max) - max), end - i);
      i = end;
    }
    for (int j = 0; j < kLanes; ++j) lanes[j] += static_cast<double>(part[j]);
  }
  return static_cast<double>(max) + __builtin_log(SumLanes(lanes));
}

#include "kernel_attention_body.h"
#include "kernel_backward_body.h"
#include "kernel_compact_body.h"
#include "kernel_narrow_attention_body.h"
#include "kernel_slice_body.h"
#include "kernel_transpose_body.h"
// After what they use.
#include "kernel_digits_body.h"
#include "kernel_slice_q4_body.h"
#include "kernel_word_pairs_body.h"
#include "kernel_word_parts_body.h"
#include "kernel_word_split_body.h"

template <typename Columns, typename Block>
constexpr BlockKernels KernelsOf() {
  return {GemmColumns<Columns>, SplitGemmOf<Block>(), WidenBlocks<Block>, {}};
}
template <typename Block>
constexpr BlockKernels KernelsOfQ4() {
  return {GemmColumns<Q4Columns>, SplitGemmOf<Block>(), LookUpBlocks<Block>,
          DigitKernelsOfQ4<Block>()};
}

}  // namespace

extern const KernelTable EVOLORA_KERNEL_TABLE;
const KernelTable EVOLORA_KERNEL_TABLE = {
    EVOLORA_KERNEL_NAME,
    Gemm,
    RmsNorm,
    Rotate,
    SiluMul,
    Softmax,
    Max,
    LogSumExp,
    RmsNormKeep,
    RmsNormBackward,
    SiluMulBackward,
    ExpShifted,
    AttentionWeights,
    AttentionGradient,
    AttendNarrow,
    AttendNarrowGradient,
    Transpose,
    {KernelsOf<Bf16Columns, Bf16Weights>(), KernelsOf<F16Columns, F16Weights>(),
     KernelsOf<Int8Columns, Int8Weights>(), KernelsOf<Int8LowColumns, Int8LowWeights>(),
     KernelsOfQ4<Q4Weights>(), KernelsOfQ4<Q4FloatWeights>()},
    GemmPairs,
    RoundBf16,
    RoundPairs,
    JoinPairs,
    TransposePairs,
    kPrefersInt8x3,
    GemmInt8x3,
    SliceRow,
    SlicePanel,
    SplitBf16x3,
    SumBlocks};

}  // namespace evolora
