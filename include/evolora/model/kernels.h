#pragma once

#include <cstdint>

#include "evolora/model/block_form.h"
#include "evolora/model/kernel_products.h"

namespace evolora {

// Scores of neighbouring queries of one head, over keys by position. Query i has position
// first_position + i and sees the positions up to its own; with a window, the last `window` of
// them.
struct AttentionRows {
  int64_t rows = 0;  // queries
  int64_t first_position = 0;
  int64_t window = 0;       // 0 = none
  int64_t columns = 0;      // a multiple of 16, > the position of the last query
  float* scores = nullptr;  // row stride ld; what no query sees may be any numbers
  int64_t ld = 0;
  float scale = 1;
  float* max = nullptr;  // [rows]
  float* factor = nullptr;
};

// Attention of one head of up to kNarrowHead values over keys and values by position; queries as in
// AttentionRows.
constexpr int64_t kNarrowHead = 8;
struct NarrowAttention {
  int64_t rows = 0;  // queries
  int64_t first_position = 0;
  int64_t window = 0;              // 0 = none
  int64_t width = 0;               // of the head
  const float* queries = nullptr;  // [rows, width], row stride ldq
  int64_t ldq = 0;
  const float* keys = nullptr;    // [positions, kNarrowHead], zeros behind `width`
  const float* values = nullptr;  // likewise
  float scale = 1;
  float* max = nullptr;     // [rows]: the greatest log2(e) * scale * score of each query
  float* factor = nullptr;  // [rows]: 1 / the sum of 2^(log2(e) * scale * score - max)
};
// From d_out [rows, width] with row stride ldo, and delta of attention_gradient, ld_delta from one
// query to the next.
struct NarrowGradients {
  const float* d_out = nullptr;
  int64_t ldo = 0;
  const float* delta = nullptr;
  int64_t ld_delta = 1;
  float* d_queries = nullptr;  // [rows, width], row stride ldq; set
  // [positions, kNarrowHead] of pairs: of a key and of its value; added to.
  float* d_keys_values = nullptr;
};

// The inner loops of the engine and of the trainer, compiled once per instruction set
// (kernel_body.h) and chosen at run time. Each function treats rows independently and adds in one
// fixed order, so the result of a row depends neither on the other rows of a call nor on how rows
// are split over calls and threads. With FMA (AVX2 and AVX-512 tables, equal to each other bit for
// bit) the last bits differ from the generic table's. Of gemm_pairs, the tables for AVX512-BF16 and
// AMX differ from all others: their instructions take subnormal numbers for zeros, and AMX's adds
// 16 pairs, the even and the odd values apart, before it adds them to the sum.
struct KernelTable {
  const char* name;
  // Each output is one sum, over the terms in order and each one's depth in ascending order.
  void (*gemm)(const GemmArgs& args);
  // y += x, over n values.
  void (*add)(const float* x, int64_t n, float* y);
  // y = weight * x / sqrt(mean(x^2) + eps), over n values.
  void (*rms_norm)(const float* x, const float* weight, int64_t n, float eps, float* y);
  // Rotate-half RoPE in place on `count` heads of 2 * half values, side by side.
  void (*rotate)(float* heads, int64_t count, const float* cos, const float* sin, int64_t half);
  // y[i] = silu(gate[i]) * up[i].
  void (*silu_mul)(const float* gate, const float* up, int64_t n, float* y);
  // In place: softmax of scale * x over n >= 1 values.
  void (*softmax)(float* x, int64_t n, float scale);
  // The greatest of n >= 1 values, none of them NaN.
  float (*max)(const float* x, int64_t n);
  // log(sum(exp(x))) over n >= 1 values.
  double (*log_sum_exp)(const float* x, int64_t n);

  // For the backward pass. rms_norm that also keeps unit = x / sqrt(mean(x^2) + eps) and returns
  // the factor 1 / sqrt(..). unit may be x.
  float (*rms_norm_keep)(const float* x, const float* weight, int64_t n, float eps, float* unit,
                         float* y);
  // dx[i] += factor * (weight[i] * dy[i] - unit[i] * mean(weight * dy * unit)).
  void (*rms_norm_backward)(const float* dy, const float* weight, const float* unit, float factor,
                            int64_t n, float* dx);
  // Of y = silu(gate) * up: gate and up become their gradients, act the value of y.
  void (*silu_mul_backward)(float* gate, float* up, const float* dy, int64_t n, float* act);
  // x[i] = factor * exp(x[i] - shift).
  void (*exp_shifted)(float* x, int64_t n, float shift, float factor);
  // scores becomes exp(scale * (score - max)), 0 where a query does not look; max its greatest
  // score and factor 1 / sum: factor * scores are the weights of attention.
  void (*attention_weights)(const AttentionRows& rows);
  // Scores become the weights, by the max and factor of before; d_weights [rows, columns], laid out
  // likewise, becomes the gradient of the scores: scale * weight * (d_weight - delta). delta [rows]
  // is the sum of weight * d_weight over a row, or what equals it: output * d_output over the
  // head's values (Dao et al., arXiv 2205.14135, B.4).
  void (*attention_gradient)(const AttentionRows& rows, const float* delta, float* d_weights);
  // out [rows, width], row stride ldo; max and factor, which the gradient reads. What a query gets
  // depends on no other query.
  void (*narrow_attention)(const NarrowAttention& attention, float* out, int64_t ldo);
  void (*narrow_attention_gradient)(const NarrowAttention& attention,
                                    const NarrowGradients& gradients);
  // dst[k * ldd + j] = factor * src[j * lds + k]: rows x depth values of a row-major matrix as
  // columns of a panel.
  void (*transpose)(const float* src, int64_t lds, int64_t rows, int64_t depth, float factor,
                    float* dst, int64_t ldd);

  BlockKernels blocks[kBlockForms];  // by BlockForm
  const BlockKernels& Of(BlockForm form) const { return blocks[static_cast<int>(form)]; }

  // Each output is one sum, over the terms in order and each one's pairs in ascending order.
  void (*gemm_pairs)(const PairGemmArgs& args);
  // To the nearest bf16 values, ties to even. The same bits from every table, as the following.
  void (*round_bf16)(const float* x, int64_t n, uint16_t* y);
  // Rows [depth, columns <= 32] with stride ld as a panel of pairs, rounded; zeros behind the last
  // column and an odd depth.
  void (*round_pairs)(const float* rows, int64_t ld, int64_t depth, int64_t columns,
                      uint16_t* panel);
  // bf16 rows [depth, 32] with stride ld as a panel of pairs; zeros behind an odd depth.
  void (*join_pairs)(const uint16_t* rows, int64_t ld, int64_t depth, uint16_t* panel);
  // bf16 rows [count <= 32, 2 pairs] with stride ld, even, as the columns of a panel of pairs;
  // zeros behind the last.
  void (*transpose_pairs)(const uint16_t* rows, int64_t ld, int64_t count, int64_t pairs,
                          uint16_t* panel);

  // Whether gemm_int8x3 is faster here than gemm.
  bool prefers_int8x3;
  // Each output is the sum of its chunks, over the terms in order and each one's chunks in
  // ascending order.
  void (*gemm_int8x3)(const Int8x3GemmArgs& args);
  // The digits of n numbers as one row of x, and its scales. Digits of a chunk with a number that
  // is not finite have no meaning; their scale is NaN. Numbers lose digits where the greatest of a
  // chunk is below 2^-100. The same bits from every table, as the following.
  void (*slice_row)(const float* x, int64_t n, int8_t* digits, float* scales);
  // Rows [depth, columns <= 32] with stride ld as a panel. Halves without a column are not written.
  void (*slice_panel)(const float* rows, int64_t ld, int64_t depth, int64_t columns, int8_t* panel,
                      float* scales);
  // The parts of n numbers: part p of number i is y[p * part + i]. They add up to the number; of
  // one that is not finite, or within 2^-9 of the greatest, to NaN or to an infinity. The same bits
  // from every table, as the following.
  void (*split_bf16x3)(const float* x, int64_t n, int64_t part, uint16_t* y);
  // sums[b] = the sum of x[32 b] and the up to 31 numbers behind it.
  void (*sum_blocks)(const float* x, int64_t n, float* sums);
};

// The best table this CPU runs. Thread-safe.
const KernelTable& Kernels();

// All tables this CPU runs, generic first: for tests.
struct KernelTableList {
  const KernelTable* tables[5];
  int count;
};
KernelTableList RunnableKernels();

}  // namespace evolora
