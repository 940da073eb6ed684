#pragma once

#include <cstdint>

#include "evolora/model/block_form.h"

namespace evolora {

// What the kernels of products (kernels.h) take: how each form of their factors lies in memory.
//
// Panel: columns of a matrix [depth, 32], row-major: what PackedMatrix and KvCache store.
constexpr int64_t kPanelColumns = 32;

enum class GemmStore { kSet, kAdd };

// One product of a sum: x [rows, depth] times panel [depth, columns].
struct GemmTerm {
  const float* x = nullptr;  // row stride ldx; transposed: [depth, rows]
  int64_t ldx = 0;
  // Row stride ldp. `columns` of the sum, rounded up to 16, are read of each row.
  const float* panel = nullptr;
  int64_t depth = 0;
  int64_t ldp = kPanelColumns;
  bool transposed = false;
  // Not null: room for [depth, 32], 64-byte aligned. The panel is copied there by the first block
  // of rows, on the way through, and read from there by the others: for panels of a wide matrix,
  // whose rows lie far apart. REQUIRES: columns > 16, and 32 floats readable in each row.
  float* copy = nullptr;
  // Not null: depth * 32 floats that are going to be read next; they are fetched into the
  // second-level cache while the panel is computed with, when x is not transposed and without copy.
  const float* next = nullptr;
};

// y [rows, columns] = the sum of the terms, or y += it.
struct GemmArgs {
  const GemmTerm* terms = nullptr;
  int64_t num_terms = 1;
  int64_t rows = 0;
  float* y = nullptr;  // row stride ldy
  int64_t ldy = 0;
  int64_t columns = 0;  // <= 32; the panels' further columns are computed and dropped
  GemmStore store = GemmStore::kSet;
};

// Products of bf16 factors. A panel of pairs [ceil(depth / 2), 32, 2]: value i of pair k of column
// j is weight[2 k + i][j]; behind an odd depth stand finite numbers, zeros behind x's.
struct PairTerm {
  const uint16_t* x = nullptr;  // [rows, 2 pairs], row stride ldx, even
  int64_t ldx = 0;
  const uint16_t* panel = nullptr;
  int64_t pairs = 0;
};
// As GemmArgs; sums are fp32.
struct PairGemmArgs {
  const PairTerm* terms = nullptr;
  int64_t num_terms = 1;
  int64_t rows = 0;
  float* y = nullptr;  // row stride ldy
  int64_t ldy = 0;
  int64_t columns = 0;  // <= 32
  GemmStore store = GemmStore::kSet;
};

// Products of fp32 factors on units for 8-bit integers. Up to kDigitChunk values of a row of x, or
// of a column of a panel, are integers of 24 bits times one scale; an integer is d0 2^16 + d1 2^8 +
// d2, its digits from -128 to 127. Products of two digits are summed as integers, without error:
// eight of the nine, as d2 times d2 is 2^-32 of the greatest at most. So a number's error is 2^-24
// of the greatest of its chunk: a sum is as exact as one in fp32, and more so the deeper it is
// (after Ootomo, Ozaki and Yokota, arXiv 2306.11975). Chunks are added in fp32.
constexpr int kDigits = 3;
constexpr int64_t kDigitStep = 64;  // values whose digits lie together
constexpr int64_t kDigitChunk = 3 * kDigitStep;
struct Int8x3Term {
  // Digit d of (m, k) is x[m * ldx + k / 64 * 192 + d * 64 + k % 64], zeros behind the depth up to
  // a multiple of 64. 15 rows behind the last are readable.
  const int8_t* x = nullptr;
  int64_t ldx = 0;
  const float* x_scales = nullptr;  // of chunk c of row m at m * ld_scales + c
  int64_t ld_scales = 0;
  // Chunk by chunk [2 halves of 16 columns, steps of 64, 3 digits, 16, 16 columns, 4].
  const int8_t* panel = nullptr;
  const float* panel_scales = nullptr;  // [chunks, 32]
  int64_t depth = 0;
};
// As GemmArgs.
struct Int8x3GemmArgs {
  const Int8x3Term* terms = nullptr;
  int64_t num_terms = 1;
  int64_t rows = 0;
  float* y = nullptr;  // row stride ldy
  int64_t ldy = 0;
  int64_t columns = 0;  // <= 32
  GemmStore store = GemmStore::kSet;
};

// bf16 parts of a fp32 number, which is their sum: each the nearest number to what the parts before
// it leave.
constexpr int kBf16Parts = 3;

// A panel of weights in few bits, [depth, 32]; of kInt8Low the scales and lows are those of 16
// rows, of the other forms of 32.
//   kBf16, kF16      weight[k][j] = values[k * 32 + j], of 16 bits
//   kInt8            values[k * 32 + j] * scales[k / 32 * 32 + j]
//   kInt8Low         lows[k / 16 * 32 + j] + values[k * 32 + j] * scales[k / 16 * 32 + j]
//   kQ4, kQ4Float    lows[k / 32 * 32 + j] + value * scales[k / 32 * 32 + j]
//                    The value is for j < 16 the low half of values[k * 16 + j],
//                    for the others the high half of values[k * 16 + j - 16];
//                    it has no sign.
struct FewBitsPanel {
  const uint8_t* values = nullptr;
  const float* scales = nullptr;
  const float* lows = nullptr;
};

// Rows of fp32 numbers by their bf16 parts, for products with panels in few bits.
struct SplitRows {
  // Part p of (m, k) is parts[p * part + m * ld + k]; zeros behind `depth` up to a multiple of 32.
  // 15 rows behind the last are readable.
  const uint16_t* parts = nullptr;
  int64_t ld = 0;
  int64_t part = 0;
  // [rows, ceil(depth / 32)]: sums of a block's 32 numbers (sum_blocks); read if panels have lows.
  const float* sums = nullptr;
  int64_t depth = 0;
};
// As GemmArgs, of one or several panels.
struct SplitGemmArgs {
  SplitRows x;
  int64_t rows = 0;
  float* y = nullptr;  // row stride ldy
  int64_t ldy = 0;
  int64_t columns = 0;  // 32 of each panel but the last
  GemmStore store = GemmStore::kSet;
};

// One chunk of a panel of digits (Int8x3Term) from blocks of weights: what slice_panel gives for
// their fp32 values, but for the scale. Null where widen and slice_panel are no slower.
struct DigitKernels {
  // Of W^T: `rows` <= 32 rows of W, `step` bytes from one to the next, whose first `depth` weights
  // are taken. A column's scale is that of the greatest weight that its blocks can hold. Behind the
  // depth stand digits of finite numbers. Halves without a column are not written.
  void (*transposed)(const uint8_t* first, int64_t step, int64_t rows, int64_t depth, int8_t* panel,
                     float* scales) = nullptr;
  // Of W: one block from each of `depth` rows; the 32 columns have one scale, of the greatest that
  // the blocks can hold.
  void (*panel)(const uint8_t* first, int64_t step, int64_t depth, int8_t* panel,
                float* scales) = nullptr;
};

// What is done with weights of one form.
struct BlockKernels {
  // gemm of one term over the panel (the term's own is not read): the bits that gemm gives over the
  // panel's weights in fp32.
  void (*gemm)(const GemmArgs& args, const FewBitsPanel& panel);
  // The same with one or several panels, as exact but not its bits: the values of a panel are bf16
  // numbers, so that three products of parts are all there are; each block's are added, then
  // scaled. Reads whole blocks: behind the depth stand finite weights. Null where it is no faster
  // for any number of rows. (AMX, one core, 4 bits: 1.6 to 1.85 times as fast as gemm from 8 rows
  // on, 0.9 times with 4, 0.7 times with one; 64 rows and 4 panels again 1.3 times as fast.)
  void (*gemm_split)(const SplitGemmArgs& args, const FewBitsPanel* panels);
  // `count` blocks, each `step` bytes behind the one before, as fp32: out [count, 32]. The same
  // bits from every table, as the following.
  void (*widen)(const uint8_t* first, int64_t step, int64_t count, float* out);
  DigitKernels digits;
};

}  // namespace evolora
