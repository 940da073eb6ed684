#include "split_left.h"

#include <algorithm>

#include "ATen/Parallel.h"
#include "evolora/model/buffer.h"
#include "product_steps.h"

namespace evolora {
namespace {

// Values that a thread splits at a time, at least: fewer take less time than the others' start.
constexpr int64_t kLeastValues = 4096;

}  // namespace

SplitLeft::SplitLeft(const float* x, int64_t ldx, int64_t rows, int64_t depth, bool sums)
    : num_blocks_((depth + kCompactBlock - 1) / kCompactBlock) {
  thread_local Buffer parts_memory, sums_memory;
  const int64_t ld = StrideOfHalves(depth);
  const int64_t part = (rows + kRowsReadBehind) * ld;
  auto* parts = reinterpret_cast<uint16_t*>(parts_memory.Reserve((kBf16Parts * part + 1) / 2));
  float* block_sums = sums ? sums_memory.Reserve(rows * num_blocks_) : nullptr;
  all_ = {.parts = parts, .ld = ld, .part = part, .sums = block_sums, .depth = depth};
  const int64_t behind = RoundUpToSliceUnit(depth) - depth;
  // In equal parts: a thread is likely to read rows that it has written.
  at::parallel_for(0, rows, kLeastValues / depth + 1, [&](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m) {
      uint16_t* row = parts + m * ld;
      Kernels().split_bf16x3(x + m * ldx, depth, part, row);
      for (int p = 0; p < kBf16Parts; ++p) std::fill_n(row + p * part + depth, behind, 0);
      if (sums) Kernels().sum_blocks(x + m * ldx, depth, block_sums + m * num_blocks_);
    }
  });
}

SplitRows SplitLeft::From(int64_t row) const {
  SplitRows rows = all_;
  rows.parts += row * rows.ld;
  if (rows.sums != nullptr) rows.sums += row * num_blocks_;
  return rows;
}

}  // namespace evolora
