#include "right_side.h"

#include <algorithm>

namespace evolora {
namespace {

// Up to so many rows a panel is read so few times that copying it costs more than it saves.
constexpr int64_t kRowsWithoutCopy = 24;
constexpr int64_t kVector = 16;

// Copies `depth` rows of `columns` values into a panel, zeros behind them.
void CopyPanel(const float* from, int64_t ldr, int64_t depth, int64_t columns, float* panel) {
  for (int64_t k = 0; k < depth; ++k) {
    float* row = panel + k * kPanelColumns;
    std::fill(std::copy_n(from + k * ldr, columns, row), row + kPanelColumns, 0.0f);
  }
}

// The weight's rows behind those of a tile, when they are as many and lie in one piece; else null.
const float* NextRows(const Slice& slice, const Tile& tile) {
  if (slice.depth.count != slice.product->depth) return nullptr;
  int64_t row = (tile.panel + 1) * kPanelColumns;
  for (const Product::Rows& part : slice.product->weight_rows) {
    if (row < part.count) {
      const bool whole = row + kPanelColumns <= part.count;
      return whole ? part.data + row * slice.product->depth : nullptr;
    }
    row -= part.count;
  }
  return nullptr;
}

void WidenWeight(const Slice& slice, const Tile& tile, float* panel) {
  const int64_t first = tile.panel * kPanelColumns;
  const CompactMatrix& weight = *slice.product->weight;
  if (slice.product->weight_transposed) {
    weight.WidenTransposed(slice.depth.begin, slice.depth.count, first, panel);
  } else {
    weight.WidenPanel(slice.depth.begin, slice.depth.count, first, panel);
  }
}

}  // namespace

void TransposeRows(const Slice& slice, const Tile& tile, float* panel) {
  const int64_t first = tile.panel * kPanelColumns, end = first + tile.columns;
  int64_t begin = 0;  // of the part
  for (const Product::Rows& part : slice.product->weight_rows) {
    const int64_t from = std::max(first, begin), to = std::min(end, begin + part.count);
    if (from < to) {
      const float* rows = part.data + (from - begin) * slice.product->depth + slice.depth.begin;
      Kernels().transpose(rows, slice.product->depth, to - from, slice.depth.count, 1,
                          panel + (from - first), kPanelColumns);
    }
    begin += part.count;
  }
  for (int64_t k = 0; tile.columns < kPanelColumns && k < slice.depth.count; ++k) {
    float* row = panel + k * kPanelColumns;
    std::fill(row + tile.columns, row + kPanelColumns, 0.0f);
  }
}

void WidenRight(const Slice& slice, const Tile& tile, float* panel) {
  slice.product->weight_rows.empty() ? WidenWeight(slice, tile, panel)
                                     : TransposeRows(slice, tile, panel);
}

RightSide::RightSide(const Slice& slice, const Tile& tile, float* room) : depth_(slice.depth) {
  const Product& product = *slice.product;
  if (!product.weight_rows.empty() || product.weight != nullptr) {
    WidenRight(slice, tile, room);
    panel_ = room;
    next_ = NextRows(slice, tile);
  } else if (product.ldr == 0) {
    UsePanels(product, tile.panel);
  } else {
    UseMatrix(product, tile, room);
  }
}

GemmTerm RightSide::TermOf(const Lefts& /*lefts*/, const Product& product, int64_t first_row,
                           int64_t rows) {
  const int64_t row = first_row - product.first_row;
  const float* left = product.left + (product.transposed ? row + depth_.begin * product.ldl
                                                         : row * product.ldl + depth_.begin);
  GemmTerm term = {.x = left,
                   .ldx = product.ldl,
                   .panel = panel_,
                   .depth = depth_.count,
                   .ldp = ldp_,
                   .transposed = product.transposed,
                   .next = next_};
  if (copy_ != nullptr && rows > kRowsWithoutCopy) {
    term.copy = copy_;
    panel_ = copy_;
    ldp_ = kPanelColumns;
    copy_ = nullptr;
  }
  return term;
}

void RightSide::UsePanels(const Product& product, int64_t panel) {
  if (product.ranges != nullptr) {
    const DepthRange& used = product.ranges[panel];
    const int64_t end = std::min(depth_.begin + depth_.count, used.begin + used.count);
    depth_.begin = std::max(depth_.begin, used.begin);
    depth_.count = end - depth_.begin;
  }
  panel_ = product.right + (panel * product.depth + depth_.begin) * kPanelColumns;
}

void RightSide::UseMatrix(const Product& product, const Tile& tile, float* room) {
  panel_ = product.right + depth_.begin * product.ldr + tile.panel * kPanelColumns;
  ldp_ = product.ldr;
  if (tile.columns % kVector != 0) {
    CopyPanel(panel_, product.ldr, depth_.count, tile.columns, room);
    panel_ = room;
    ldp_ = kPanelColumns;
  } else if (tile.columns == kPanelColumns) {
    copy_ = room;
  }
}

}  // namespace evolora
