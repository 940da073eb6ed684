#pragma once

#include <compare>
#include <cstdint>

#include "token_layout.h"

namespace evolora {

// Sizes of what a micro-batch is on a device.
struct BatchShape {
  int64_t tokens = 0;       // N
  int64_t rows = 0;         // S
  int64_t longest_row = 0;  // L
  int64_t predicting = 0;   // M, tokens that predict something
  int64_t targets = 0;      // T
  friend auto operator<=>(const BatchShape&, const BatchShape&) = default;
};

// The sizes of `layout`, which shares no prefixes.
BatchShape ShapeOf(const TokenLayout& layout);

// Sizes out of few, so that they come again: a layout of `exact` sizes fits into them with rows of
// padding (of at most longest_row tokens) for the other tokens. Up to 1/8 more tokens, predicting
// tokens and targets, but no more tokens than `tokens_per_micro_batch` when `exact` has no more.
BatchShape Bucket(const BatchShape& exact, int64_t tokens_per_micro_batch);

// Whether no size of `inner` is above that of `outer`.
bool FitsInto(const BatchShape& inner, const BatchShape& outer);
// The greater of each size.
BatchShape Joined(const BatchShape& a, const BatchShape& b);

}  // namespace evolora
