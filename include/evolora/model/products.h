#pragma once

#include <cstdint>

#include "absl/types/span.h"
#include "evolora/model/compact_matrix.h"
#include "evolora/model/kernels.h"

namespace evolora {
// A part of the inner dimension of a product.
struct DepthRange {
  int64_t begin = 0;
  int64_t count = 0;
};

// What both sides of a product are multiplied as. kBf16: rounded; products of two rounded numbers
// are exact in fp32 and are added in fp32. kInt8x3: fp32 numbers by digits of 8 bits (kernels.h),
// to the accuracy of kFp32.
enum class Factors { kFp32, kBf16, kInt8x3 };
// The faster way to multiply fp32 numbers here.
inline Factors Fp32Factors() {
  return Kernels().prefers_int8x3 ? Factors::kInt8x3 : Factors::kFp32;
}
// The faster way for products with a side or a depth of no more than `width`: of less than 128 the
// digits are used too seldom to pay. (Two cores with AMX, 384 rows: 64 wide 0.8 times as fast as
// fp32 units, 192 wide 1.2 to 1.5 times, 576 wide 1.5 to 2 times.)
inline Factors FactorsOfWidth(Factors factors, int64_t width) {
  return factors == Factors::kInt8x3 && width < 128 ? Factors::kFp32 : factors;
}

// left [rows, depth] times right [depth, columns], fp32.
struct Product {
  const float* left = nullptr;  // (m, k) at left[m * ldl + k]; transposed: left[k * ldl + m]
  int64_t ldl = 0;
  bool transposed = false;
  int64_t depth = 0;
  // Row-major with stride ldr; or, with ldr = 0, panels of 32 columns: panel p at
  // right + p * depth * 32, [depth, 32].
  const float* right = nullptr;
  int64_t ldr = 0;
  // Panels only: outside ranges[p] the rows of panel p are zero and may be skipped. Null: none is;
  // REQUIRED of the first product of a sum that is stored with kSet.
  const DepthRange* ranges = nullptr;
  // In place of `right`, not empty: right = W^T of a weight W [columns, depth] whose rows lie in
  // one or several matrices, stacked; transposed panel by panel into a buffer of each thread.
  struct Rows {
    const float* data = nullptr;  // [count, depth], without gaps
    int64_t count = 0;
  };
  absl::Span<const Rows> weight_rows;
  // In place of `right`, not null: a frozen weight W [out, in] in few bits, which is widened
  // likewise. right = W (depth = out), or W^T (depth = in) when weight_transposed.
  const CompactMatrix* weight = nullptr;
  bool weight_transposed = false;
  // The rows of y that this product belongs to; `left` begins with the first of them. All by
  // default; REQUIRED so of the first product of a sum that is stored with kSet.
  int64_t first_row = 0;
  int64_t num_rows = kAllRows;
  static constexpr int64_t kAllRows = int64_t{1} << 62;
};

// y [rows, columns] = the sum of the products, or y += it; all have y's columns, and its rows or
// some of them. Uses all threads. Every output is summed in an order that depends on the depths of
// the products of its row alone: not on the other rows, nor on the threads. `factors`: of all
// products.
void SumOfProducts(absl::Span<const Product> products, int64_t rows, int64_t columns, float* y,
                   int64_t ldy, GemmStore store, Factors factors = Fp32Factors());

// Bytes that a sum keeps of a left side [rows, depth] while it runs.
int64_t LeftSideBytes(Factors factors, int64_t rows, int64_t depth);

}  // namespace evolora
