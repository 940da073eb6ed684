#pragma once

#include <compare>
#include <cstdint>

#include "device/head_rows.h"
#include "token_layout.h"

namespace evolora {

// Sizes of what a micro-batch is on a device. A row is a segment of the layout: its own tokens,
// which see those of the segments above it, too.
struct BatchShape {
  int64_t tokens = 0;       // N
  int64_t rows = 0;         // S
  int64_t longest_row = 0;  // L, from the start of rows on
  int64_t keys = 0;         // P, tokens that rows see, row by row; 0: each sees its own alone
  int64_t predicting = 0;   // M, rows of the head
  int64_t targets = 0;      // T
  friend auto operator<=>(const BatchShape&, const BatchShape&) = default;  // NOLINT(*-use-nullptr)
};

// The sizes of `layout` and its head rows.
BatchShape ShapeOf(const TokenLayout& layout, const HeadRows& head);

// Sizes out of few, so that they come again: a layout of `exact` sizes fits into them with rows of
// padding (of at most longest_row tokens, which see their own alone) for the other tokens. Up to
// 1/8 more tokens, head rows and targets, but no more tokens than `tokens_per_micro_batch` when
// `exact` has no more; up to 1/4 more keys and those of the padding.
BatchShape Bucket(const BatchShape& exact, int64_t tokens_per_micro_batch);

// Whether no size of `inner` is above that of `outer`.
bool FitsInto(const BatchShape& inner, const BatchShape& outer);
// The greater of each size.
BatchShape Joined(const BatchShape& a, const BatchShape& b);

}  // namespace evolora
