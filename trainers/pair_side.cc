#include "pair_side.h"

#include <algorithm>

#include "ATen/Parallel.h"
#include "right_side.h"

namespace evolora {
namespace {

constexpr int64_t kSquare = 32;

// Of the rounded rows. Not a multiple of 4 KiB: their lines would fall into one set of the
// first-level cache.
int64_t StrideOf(int64_t depth) {
  const int64_t stride = (depth + kSquare - 1) / kSquare * kSquare;
  return stride % 512 == 0 ? stride + kSquare : stride;
}

int64_t RowsOf(const Product& product, int64_t rows) {
  return IsOfAllRows(product) ? rows : std::min(product.num_rows, rows - product.first_row);
}

// Rows [begin, end) of the product's own.
void RoundRows(const Product& product, int64_t begin, int64_t end, uint16_t* to, int64_t ld) {
  for (int64_t m = begin; m < end; ++m) {
    uint16_t* row = to + m * ld;
    if (!product.transposed) {
      Kernels().round_bf16(product.left + m * product.ldl, product.depth, row);
    }
    if (product.depth % 2 != 0) row[product.depth] = 0;
  }
  if (!product.transposed) return;
  for (int64_t first = begin; first < end; first += kSquare) {
    const int64_t count = std::min(kSquare, end - first);
    for (int64_t k = 0; k < product.depth; k += kSquare) {
      alignas(64) float square[kSquare * kSquare];
      const int64_t depth = std::min(kSquare, product.depth - k);
      Kernels().transpose(product.left + k * product.ldl + first, product.ldl, depth, count, 1,
                          square, kSquare);
      for (int64_t m = 0; m < count; ++m) {
        Kernels().round_bf16(square + m * kSquare, depth, to + (first + m) * ld + k);
      }
    }
  }
}

// The columns that a weight's rows give.
void RoundTransposedRows(const Slice& slice, const Tile& tile, uint16_t* panel) {
  for (int64_t k = 0; k < slice.depth.count; k += kSquare) {
    alignas(64) float square[kSquare * kPanelColumns];
    const int64_t depth = std::min(kSquare, slice.depth.count - k);
    TransposeRows({slice.product, {slice.depth.begin + k, depth}}, tile, square);
    Kernels().round_pairs(square, kPanelColumns, depth, kPanelColumns, panel + k * kPanelColumns);
  }
}

// What is left of `depth` in `used`, from an even place on.
DepthRange Within(const DepthRange& depth, const DepthRange& used) {
  const int64_t begin = std::max(depth.begin, used.begin / 2 * 2);
  return {begin, std::min(depth.begin + depth.count, used.begin + used.count) - begin};
}

// The slice's panel, from wherever the right side of its product lies.
void RoundPanel(const Slice& slice, const Tile& tile, uint16_t* panel) {
  const Product& product = *slice.product;
  const int64_t begin = slice.depth.begin, count = slice.depth.count;
  const int64_t column = tile.panel * kPanelColumns;
  if (!product.weight_rows.empty()) return RoundTransposedRows(slice, tile, panel);
  if (product.weight != nullptr) {
    return product.weight_transposed ? product.weight->PairsTransposed(begin, count, column, panel)
                                     : product.weight->PairsPanel(begin, count, column, panel);
  }
  if (product.ldr > 0) {
    return Kernels().round_pairs(product.right + begin * product.ldr + column, product.ldr, count,
                                 tile.columns, panel);
  }
  Kernels().round_pairs(product.right + (column * product.depth + begin * kPanelColumns),
                        kPanelColumns, count, kPanelColumns, panel);
}

}  // namespace

int64_t RoundedLefts::Bytes(int64_t rows, int64_t depth) {
  return rows * StrideOf(depth) * static_cast<int64_t>(sizeof(uint16_t));
}

RoundedLefts::RoundedLefts(absl::Span<const Product> products, int64_t rows)
    : products_(products), lefts_(products.size()) {
  int64_t size = 0;
  for (const Product& product : products) size += RowsOf(product, rows) * StrideOf(product.depth);
  values_.reset(new uint16_t[static_cast<size_t>(size)]);
  uint16_t* to = values_.get();
  for (size_t i = 0; i < products.size(); ++i) {
    const Product& product = products[i];
    const int64_t ld = StrideOf(product.depth), count = RowsOf(product, rows);
    lefts_[i] = {to, ld};
    const int64_t grain = std::max<int64_t>(kSquare, (int64_t{1} << 16) / (product.depth + 1));
    at::parallel_for(0, count, grain,
                     [&](int64_t begin, int64_t end) { RoundRows(product, begin, end, to, ld); });
    to += count * ld;
  }
}

PairSide::PairSide(const Slice& slice, const Tile& tile, uint16_t* room)
    : depth_(slice.depth), panel_(room) {
  const Product& product = *slice.product;
  if (product.ranges != nullptr) depth_ = Within(depth_, product.ranges[tile.panel]);
  if (!empty()) RoundPanel({&product, depth_}, tile, room);
}

PairTerm PairSide::TermOf(const RoundedLefts& lefts, const Product& product, int64_t first_row,
                          int64_t /*rows*/) const {
  const RoundedLefts::Left& left = lefts.Of(product);
  return {.x = left.data + (first_row - product.first_row) * left.ld + depth_.begin,
          .ldx = left.ld,
          .panel = panel_,
          .pairs = (depth_.count + 1) / 2};
}

}  // namespace evolora
