// Products of fp32 rows with panels: a part of kernel_body.h, inside its unnamed namespace.

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
