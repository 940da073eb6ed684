#include "pair_side.h"

#include <algorithm>

#include "evolora/model/buffer.h"
#include "evolora/model/share_out.h"
#include "right_side.h"

namespace evolora {
namespace {

constexpr int64_t kSquare = kSliceUnit;

// Rows [begin, end) of the product's own.
void RoundRows(const Product& product, int64_t begin, int64_t end, int64_t ld, uint16_t* to) {
  const int64_t behind = RoundUpToSliceUnit(product.depth) - product.depth;
  for (int64_t m = begin; m < end; ++m) {
    uint16_t* row = to + m * ld;
    if (!product.transposed) {
      Kernels().round_bf16(product.left + m * product.ldl, product.depth, row);
    }
    std::fill_n(row + product.depth, behind, 0);
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

// Rows of a panel that write(depth, square) gives, 32 wide, 32 at a time.
template <typename Write>
void RoundSquares(const DepthRange& depth, uint16_t* panel, const Write& write) {
  for (int64_t k = 0; k < depth.count; k += kSquare) {
    alignas(64) float square[kSquare * kPanelColumns];
    const DepthRange some = {depth.begin + k, std::min(kSquare, depth.count - k)};
    write(some, square);
    Kernels().round_pairs(square, kPanelColumns, some.count, kPanelColumns,
                          panel + k * kPanelColumns);
  }
}

void RoundWeight(const Slice& slice, int64_t column, uint16_t* panel) {
  const Product& product = *slice.product;
  const int64_t begin = slice.depth.begin, count = slice.depth.count;
  if (product.weight_transposed) {
    product.weight->PairsTransposed(begin, count, column, panel);
  } else {
    product.weight->PairsPanel(begin, count, column, panel);
  }
}

// The slice's panel, from wherever the right side of its product lies.
void RoundRight(const Slice& slice, const Tile& tile, uint16_t* panel) {
  const Product& product = *slice.product;
  const int64_t begin = slice.depth.begin, count = slice.depth.count;
  const int64_t column = tile.panel * kPanelColumns;
  if (!product.weight_rows.empty()) {
    return RoundSquares(slice.depth, panel, [&](const DepthRange& depth, float* square) {
      TransposeRows({slice.product, depth}, tile, square);
    });
  }
  if (product.weight != nullptr) return RoundWeight(slice, column, panel);
  if (product.ldr > 0) {
    return Kernels().round_pairs(product.right + begin * product.ldr + column, product.ldr, count,
                                 tile.columns, panel);
  }
  Kernels().round_pairs(product.right + (column * product.depth + begin * kPanelColumns),
                        kPanelColumns, count, kPanelColumns, panel);
}

uint16_t* MemoryOfThread(int64_t words) {
  thread_local Buffer buffer;
  return reinterpret_cast<uint16_t*>(buffer.Reserve((words + 1) / 2));
}

}  // namespace

int64_t PairLefts::Bytes(int64_t rows, int64_t depth) {
  return (rows + kRowsReadBehind) * StrideOfHalves(depth) * static_cast<int64_t>(sizeof(uint16_t));
}

PairLefts::PairLefts(absl::Span<const Product> products, int64_t rows)
    : products_(products), lefts_(products.size()) {
  int64_t words = 0;
  for (const Product& product : products) {
    words += Bytes(RowsOf(product, rows), product.depth) / static_cast<int64_t>(sizeof(uint16_t));
  }
  uint16_t* to = MemoryOfThread(words);
  for (size_t i = 0; i < products.size(); ++i) {
    const Product& product = products[i];
    const int64_t ld = StrideOfHalves(product.depth), count = RowsOf(product, rows);
    lefts_[i] = {to, ld};
    const int64_t grain = std::max<int64_t>(kSquare, (int64_t{1} << 16) / (product.depth + 1));
    ShareOut(count, grain,
             [&](int64_t begin, int64_t end) { RoundRows(product, begin, end, ld, to); });
    to += (count + kRowsReadBehind) * ld;
  }
}

PairSide::PairSide(const Slice& slice, const Tile& tile, uint16_t* room)
    : depth_(slice.depth), panel_(room) {
  const Product& product = *slice.product;
  if (product.ranges != nullptr) depth_ = Within(depth_, product.ranges[tile.panel], kSliceUnit);
  if (!empty()) RoundRight({&product, depth_}, tile, room);
}

PairTerm PairSide::TermOf(const Lefts& lefts, const Product& product, int64_t first_row,
                          int64_t /*rows*/) const {
  const Lefts::Left& left = lefts.Of(product);
  return {.x = left.data + (first_row - product.first_row) * left.ld + depth_.begin,
          .ldx = left.ld,
          .panel = panel_,
          .pairs = (depth_.count + 1) / 2};
}

}  // namespace evolora
