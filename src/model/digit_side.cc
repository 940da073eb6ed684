#include "digit_side.h"

#include <algorithm>

#include "evolora/model/buffer.h"
#include "evolora/model/share_out.h"
#include "right_side.h"

namespace evolora {
namespace {

constexpr int64_t kLine = 64;  // bytes of a line of the cache
constexpr int64_t kSquare = 32;

int64_t ChunksOf(int64_t depth) { return (depth + kDigitChunk - 1) / kDigitChunk; }

// Bytes between rows of digits: an odd number of lines, so that rows fall into different sets of
// the first-level cache.
int64_t StrideOf(int64_t depth) {
  const int64_t lines = RoundUpTo(kDigitStep, depth) * kDigits / kLine;
  return (lines | 1) * kLine;
}
int64_t DigitBytes(int64_t rows, int64_t depth) {
  return (rows + kRowsReadBehind) * StrideOf(depth);
}
int64_t ScaleBytes(int64_t rows, int64_t depth) {
  return RoundUpTo(kLine, rows * ChunksOf(depth) * static_cast<int64_t>(sizeof(float)));
}

// Of the product's own rows [begin, end) of `left`, which lies transposed.
void SliceColumns(const Product& product, int64_t begin, int64_t end, int8_t* digits, int64_t ld,
                  float* scales, int64_t ld_scales) {
  for (int64_t first = begin; first < end; first += kSquare) {
    const int64_t count = std::min(kSquare, end - first);
    for (int64_t k = 0; k < product.depth; k += kDigitChunk) {
      alignas(kLine) float rows[kSquare * kDigitChunk];
      const int64_t depth = std::min(kDigitChunk, product.depth - k);
      Kernels().transpose(product.left + k * product.ldl + first, product.ldl, depth, count, 1,
                          rows, kDigitChunk);
      for (int64_t m = 0; m < count; ++m) {
        Kernels().slice_row(rows + m * kDigitChunk, depth, digits + (first + m) * ld + k * kDigits,
                            scales + (first + m) * ld_scales + k / kDigitChunk);
      }
    }
  }
}

void SliceRows(const Product& product, int64_t begin, int64_t end, int8_t* digits, int64_t ld,
               float* scales, int64_t ld_scales) {
  if (product.transposed) {
    return SliceColumns(product, begin, end, digits, ld, scales, ld_scales);
  }
  for (int64_t m = begin; m < end; ++m) {
    Kernels().slice_row(product.left + m * product.ldl, product.depth, digits + m * ld,
                        scales + m * ld_scales);
  }
}

// Rows of the right side as fp32.
struct PanelRows {
  const float* rows;
  int64_t ld;
  int64_t columns;
};

// Those of one chunk, where they lie or in `room` [kDigitChunk, 32].
PanelRows RowsOfChunk(const Product& product, const DepthRange& depth, const Tile& tile,
                      float* room) {
  const int64_t column = tile.panel * kPanelColumns;
  const PanelRows in_room = {room, kPanelColumns, kPanelColumns};
  if (!product.weight_rows.empty() || product.weight != nullptr) {
    WidenRight({&product, depth}, tile, room);
    return in_room;
  }
  if (product.ldr > 0) {
    return {product.right + depth.begin * product.ldr + column, product.ldr, tile.columns};
  }
  return {product.right + column * product.depth + depth.begin * kPanelColumns, kPanelColumns,
          kPanelColumns};
}

// One chunk of the panel.
void SliceRight(const Product& product, const DepthRange& depth, const Tile& tile, int8_t* panel,
                float* scales) {
  const CompactMatrix* weight = product.weight;
  const int64_t column = tile.panel * kPanelColumns;
  if (weight != nullptr && weight->GivesDigits()) {
    return product.weight_transposed
               ? weight->DigitsTransposed(depth.begin, depth.count, column, panel, scales)
               : weight->DigitsPanel(depth.begin, depth.count, column, panel, scales);
  }
  alignas(kLine) float room[kDigitChunk * kPanelColumns];  // in the first-level cache
  const PanelRows from = RowsOfChunk(product, depth, tile, room);
  Kernels().slice_panel(from.rows, from.ld, depth.count, from.columns, panel, scales);
}

uint8_t* MemoryOfThread(int64_t bytes) {
  thread_local Buffer buffer;
  return reinterpret_cast<uint8_t*>(buffer.Reserve((bytes + 3) / 4));
}

}  // namespace

int64_t DigitLefts::Bytes(int64_t rows, int64_t depth) {
  return DigitBytes(rows, depth) + ScaleBytes(rows, depth);
}

DigitLefts::DigitLefts(absl::Span<const Product> products, int64_t rows)
    : products_(products), lefts_(products.size()) {
  int64_t bytes = 0;
  for (const Product& product : products) bytes += Bytes(RowsOf(product, rows), product.depth);
  uint8_t* to = MemoryOfThread(bytes);
  for (size_t i = 0; i < products.size(); ++i) {
    const Product& product = products[i];
    const int64_t count = RowsOf(product, rows);
    const int64_t ld = StrideOf(product.depth), ld_scales = ChunksOf(product.depth);
    auto* digits = reinterpret_cast<int8_t*>(to);
    auto* scales = reinterpret_cast<float*>(to + DigitBytes(count, product.depth));
    lefts_[i] = {digits, ld, scales, ld_scales};
    const int64_t grain = std::max<int64_t>(kSquare, (int64_t{1} << 16) / (product.depth + 1));
    ShareOut(count, grain, [&](int64_t begin, int64_t end) {
      SliceRows(product, begin, end, digits, ld, scales, ld_scales);
    });
    to += Bytes(count, product.depth);
  }
}

DigitSide::DigitSide(const Slice& slice, const Tile& tile, int8_t* room)
    : depth_(slice.depth), panel_(room) {
  const Product& product = *slice.product;
  if (product.ranges != nullptr) depth_ = Within(depth_, product.ranges[tile.panel], kDigitChunk);
  if (empty()) return;
  auto* scales = reinterpret_cast<float*>(room + ScalesAt(depth_.count));
  scales_ = scales;
  for (int64_t k = 0; k < depth_.count; k += kDigitChunk) {
    SliceRight(product, {depth_.begin + k, std::min(kDigitChunk, depth_.count - k)}, tile,
               room + k * kDigits * kPanelColumns, scales + k / kDigitChunk * kPanelColumns);
  }
}

Int8x3Term DigitSide::TermOf(const DigitLefts& lefts, const Product& product, int64_t first_row,
                             int64_t /*rows*/) const {
  const DigitLefts::Left& left = lefts.Of(product);
  const int64_t row = first_row - product.first_row;
  return {.x = left.digits + row * left.ld + depth_.begin * kDigits,
          .ldx = left.ld,
          .x_scales = left.scales + row * left.ld_scales + depth_.begin / kDigitChunk,
          .ld_scales = left.ld_scales,
          .panel = panel_,
          .panel_scales = scales_,
          .depth = depth_.count};
}

}  // namespace evolora
