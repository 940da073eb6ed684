#include "device/batch_shape.h"

#include <algorithm>
#include <bit>

#include "device/device_batches.h"

namespace evolora {
namespace {

int64_t CeilDiv(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The smallest number from n on of those that cut each doubling into `steps` equal parts of at
// least `least`.
int64_t StepsUp(int64_t n, int64_t steps, int64_t least) {
  const auto doubling =
      static_cast<int64_t>(std::bit_floor(static_cast<uint64_t>(std::max<int64_t>(1, n))));
  const int64_t step = std::max(least, doubling / steps);
  return CeilDiv(n, step) * step;
}

}  // namespace

BatchShape ShapeOf(const TokenLayout& layout, const HeadRows& head) {
  BatchShape shape = {.tokens = static_cast<int64_t>(layout.ids.size()),
                      .rows = static_cast<int64_t>(layout.segments.size()),
                      .keys = SharedKeys(layout),
                      .predicting = static_cast<int64_t>(head.tokens.size()),
                      .targets = static_cast<int64_t>(head.ids.size())};
  for (const TokenLayout::Segment& segment : layout.segments) {
    shape.longest_row = std::max(shape.longest_row, segment.first_position + segment.num_tokens);
  }
  return shape;
}

BatchShape Bucket(const BatchShape& exact, int64_t tokens_per_micro_batch) {
  BatchShape shape = {.tokens = StepsUp(exact.tokens, 8, 8),
                      .longest_row = StepsUp(exact.longest_row, 2, 16),
                      .predicting = StepsUp(exact.predicting, 8, 8),
                      .targets = StepsUp(exact.targets, 8, 8)};
  if (exact.tokens <= tokens_per_micro_batch) {
    shape.tokens = std::min(shape.tokens, tokens_per_micro_batch);
  }
  const int64_t padding = shape.tokens - exact.tokens;
  shape.rows = StepsUp(exact.rows + CeilDiv(padding, shape.longest_row), 1, 1);
  if (exact.keys > 0) shape.keys = StepsUp(exact.keys + padding, 4, 16);
  return shape;
}

bool FitsInto(const BatchShape& inner, const BatchShape& outer) {
  return Joined(inner, outer) == outer;
}

BatchShape Joined(const BatchShape& a, const BatchShape& b) {
  return {.tokens = std::max(a.tokens, b.tokens),
          .rows = std::max(a.rows, b.rows),
          .longest_row = std::max(a.longest_row, b.longest_row),
          .keys = std::max(a.keys, b.keys),
          .predicting = std::max(a.predicting, b.predicting),
          .targets = std::max(a.targets, b.targets)};
}

}  // namespace evolora
