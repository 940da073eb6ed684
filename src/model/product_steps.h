#pragma once

#include <cstdint>

#include "absl/container/inlined_vector.h"
#include "absl/types/span.h"
#include "evolora/model/products.h"

namespace evolora {

// How SumOfProducts cuts its work.

// A depth is cut at multiples of it, or of a multiple: whole blocks of a weight in few bits, whole
// tiles of pairs.
constexpr int64_t kSliceUnit = 32;
static_assert(kSliceUnit % kCompactBlock == 0 && kDigitChunk % kSliceUnit == 0);
constexpr int64_t RoundUpTo(int64_t unit, int64_t depth) {
  return (depth + unit - 1) / unit * unit;
}
constexpr int64_t RoundUpToSliceUnit(int64_t depth) { return RoundUpTo(kSliceUnit, depth); }

// The last rows of a left side are read by tiles of rows.
constexpr int64_t kRowsReadBehind = 15;
// Between rows of 16-bit numbers, of whole slice units. Not a multiple of 4 KiB: their lines would
// fall into one set of the first-level cache.
constexpr int64_t StrideOfHalves(int64_t depth) {
  const int64_t stride = RoundUpToSliceUnit(depth);
  return stride % 512 == 0 ? stride + kSliceUnit : stride;
}

// Most of the depth that is worked on at once. A panel of it has 192 KiB, in the second-level
// cache; the left side of a longer one (the gradient of logits) is read once, not once for each
// panel.
constexpr int64_t kMaxDepthBlock = 1536;
static_assert(kMaxDepthBlock % kSliceUnit == 0 && kMaxDepthBlock % kDigitChunk == 0);
// Most of the depth of products with rows of their own that joins a step over all rows.
constexpr int64_t kOwnDepthBlock = 576;
static_assert(kOwnDepthBlock % kSliceUnit == 0 && kOwnDepthBlock % kDigitChunk == 0);

// One panel of y for some rows.
struct Tile {
  int64_t first_row;
  int64_t rows;
  int64_t panel;
  int64_t columns;
};

// The tiles of a result y [rows, columns].
struct Tiling {
  int64_t rows;
  int64_t columns;
  int64_t num_panels;
  int64_t rows_per_tile;
  int64_t num_cuts;
  bool by_rows;  // neighbours have the same rows; else the same panel

  int64_t size() const { return num_panels * num_cuts; }
  Tile At(int64_t i) const;
};

// All rows in one tile, unless there are too few panels to keep the threads equally busy.
Tiling MakeTiling(int64_t rows, int64_t columns, bool by_rows);

// A part of a product's depth; begins at a multiple of the unit that it was cut by.
struct Slice {
  const Product* product;
  DepthRange depth;
};

// Slices whose products are added before the sum is stored.
struct Step {
  absl::InlinedVector<Slice, 4> slices;
  int64_t depth = 0;  // of the slices, each rounded up to whole units
};
using Steps = absl::InlinedVector<Step, 2>;

// Cuts the product at multiples of `unit` into even slices no deeper than `most`.
void AppendProduct(const Product& product, int64_t unit, int64_t most, Steps& steps);

inline bool IsOfAllRows(const Product& product) { return product.num_rows == Product::kAllRows; }
// The product's own, of `rows` in all.
int64_t RowsOf(const Product& product, int64_t rows);
// What is left of `depth` in `used`, from the beginning of a unit on.
DepthRange Within(const DepthRange& depth, const DepthRange& used, int64_t unit);

// Neighbouring rows with the same products. The first of their own steps joins the last step over
// all rows, the others follow it.
struct Band {
  int64_t first_row;
  int64_t end_row;
  Steps own;
};

absl::InlinedVector<Band, 1> MakeBands(absl::Span<const Product> products, int64_t rows,
                                       int64_t unit);

}  // namespace evolora
