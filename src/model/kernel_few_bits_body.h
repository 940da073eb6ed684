// Products over panels of 16-bit, int8 and 4-bit weights: a part of kernel_body.h, inside its
// unnamed namespace.

#include "kernel_few_bits_columns_body.h"

// A row of 32 sums to its place in args.y.
inline void StoreRow(const GemmArgs& args, int64_t row, const float* sums) {
  float* y = args.y + row * args.ldy;
  const bool add = args.store == GemmStore::kAdd;
  ForLanes(args.columns, [=](int64_t j, int64_t count) {
    const Lanes sum = LoadLanes(sums + j);
    StoreAny(y + j, count, add ? LoadAny(y + j, count) + sum : sum);
  });
}

// Few rows: the panel is widened on its way into the sums.
template <int kRows, typename Columns>
__attribute__((always_inline)) inline void ColumnsBlock(const GemmArgs& args, Columns columns,
                                                        int64_t first_row) {
  const GemmTerm& term = *args.terms;
  const float* x = term.x + first_row * term.ldx;
  Lanes sums[kRows][2];
  for (int i = 0; i < kRows; ++i) sums[i][0] = sums[i][1] = Lanes{};
  ForRows(columns, 0, term.depth, [&](int64_t k) {
    const Lanes left = columns.Left(k), right = columns.Right(k);
    for (int i = 0; i < kRows; ++i) {
      const float value = x[i * term.ldx + k];
      sums[i][0] += value * left;
      sums[i][1] += value * right;
    }
  });
  for (int i = 0; i < kRows; ++i) {
    float row[kPanelColumns];
    StoreLanes(row, sums[i][0]);
    StoreLanes(row + kLanes, sums[i][1]);
    StoreRow(args, first_row + i, row);
  }
}

// Many rows: a slice of the panel is widened once, into the first-level cache, by the first block
// of rows, between whose products it takes hardly any time, and read from there for the other
// blocks. Their sums wait in memory for the next slice.
constexpr int64_t kSliceDepth = 128;  // whole blocks
constexpr int64_t kSliceRows = 64;

struct SliceArgs {
  GemmTerm term;  // of the slice
  int64_t rows;
  float* sums;  // [rows, 32], which the slice's products are added to one after the other
};
template <typename Columns>
struct WideningArgs {
  SliceArgs slice;
  Columns& columns;
  int64_t begin;  // of the slice
  float* wide;    // [depth, 32]
};

template <int kRows, int kVectors>
inline void LoadSums(const float* kept, Sums<kRows, kVectors>& sums) {
  for (int i = 0; i < kRows; ++i) {
    for (int v = 0; v < kVectors; ++v) {
      sums[i][v] = LoadLanes(kept + i * kPanelColumns + v * kLanes);
    }
  }
}
template <int kRows, int kVectors>
inline void KeepSums(const Sums<kRows, kVectors>& sums, float* kept) {
  for (int i = 0; i < kRows; ++i) {
    for (int v = 0; v < kVectors; ++v) {
      StoreLanes(kept + i * kPanelColumns + v * kLanes, sums[i][v]);
    }
  }
}

template <int kRows, int kVectors>
__attribute__((always_inline)) inline void GemmBlock(const SliceArgs& args, int64_t first_row) {
  Sums<kRows, kVectors> sums;
  float* kept = args.sums + first_row * kPanelColumns;
  LoadSums<kRows, kVectors>(kept, sums);
  AddTerm<kRows, kVectors, false, false>(args.term, first_row, args.term.panel, kPanelColumns,
                                         sums);
  KeepSums<kRows, kVectors>(sums, kept);
}

template <int kRows, int kVectors, typename Columns>
__attribute__((always_inline)) inline void GemmBlock(const WideningArgs<Columns>& args,
                                                     int64_t first_row) {
  const GemmTerm& term = args.slice.term;
  const float* x = term.x + first_row * term.ldx;
  float* wide = args.wide;
  Sums<kRows, kVectors> sums;
  float* kept = args.slice.sums + first_row * kPanelColumns;
  LoadSums<kRows, kVectors>(kept, sums);
  ForRows(args.columns, args.begin, args.begin + term.depth, [&](int64_t k) {
    const Lanes left = args.columns.Left(k), right = args.columns.Right(k);
    StoreLanes(wide, left);
    StoreLanes(wide + kLanes, right);
    for (int i = 0; i < kRows; ++i) {
      const float value = x[i * term.ldx];
      sums[i][0] += value * left;
      sums[i][1] += value * right;
    }
    ++x;
    wide += kPanelColumns;
  });
  KeepSums<kRows, kVectors>(sums, kept);
}

// The rows [first_row, first_row + rows), rows <= kSliceRows. Not inlined: one row alone would pay
// for its stack (5 % of generating one chat).
template <typename Columns>
__attribute__((noinline)) void GemmSlices(const GemmArgs& args, Columns columns, int64_t first_row,
                                          int64_t rows) {
  alignas(64) float wide[kSliceDepth * kPanelColumns];
  alignas(64) float sums[kSliceRows * kPanelColumns];
  for (int64_t i = 0; i < rows * kPanelColumns; i += kLanes) StoreLanes(sums + i, Lanes{});
  GemmTerm term = {
      .x = args.terms->x + first_row * args.terms->ldx, .ldx = args.terms->ldx, .panel = wide};
  const int64_t first = RowsOfBlock(rows);
  for (int64_t k = 0; k < args.terms->depth; k += kSliceDepth) {
    const int64_t left = args.terms->depth - k;
    term.depth = left < kSliceDepth ? left : kSliceDepth;
    GemmTail<EVOLORA_GEMM_ROWS, 2>(WideningArgs<Columns>{{term, first, sums}, columns, k, wide}, 0,
                                   first);
    GemmRows<2>(SliceArgs{
        {.x = term.x + first * term.ldx, .ldx = term.ldx, .panel = wide, .depth = term.depth},
        rows - first,
        sums + first * kPanelColumns});
    term.x += kSliceDepth;
  }
  for (int64_t i = 0; i < rows; ++i) StoreRow(args, first_row + i, sums + i * kPanelColumns);
}

// From so many rows on it pays to widen once.
constexpr int64_t kRowsToWiden = 9;

template <typename Columns>
void GemmColumns(const GemmArgs& args, const FewBitsPanel& panel) {
  const Columns columns(panel);
  int64_t row = 0;
  if (args.rows >= kRowsToWiden) {
    for (; row < args.rows; row += kSliceRows) {
      const int64_t left = args.rows - row;
      GemmSlices(args, columns, row, left < kSliceRows ? left : kSliceRows);
    }
    return;
  }
  for (; row + 4 <= args.rows; row += 4) ColumnsBlock<4>(args, columns, row);
  switch (args.rows - row) {
    case 3:
      return ColumnsBlock<3>(args, columns, row);
    case 2:
      return ColumnsBlock<2>(args, columns, row);
    case 1:
      return ColumnsBlock<1>(args, columns, row);
    default:
      return;
  }
}
