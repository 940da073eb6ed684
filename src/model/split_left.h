#pragma once

#include <cstdint>

#include "evolora/model/kernels.h"

namespace evolora {

// A left side [rows, depth] by bf16 parts, with the sums of its blocks, for gemm_split. Each value
// once, whatever the number of panels that it is multiplied with. Uses all threads. One object at a
// time in a thread: it works with memory that the thread keeps.
class SplitLeft {
 public:
  // x: row stride ldx. `sums`: whether those are asked for.
  SplitLeft(const float* x, int64_t ldx, int64_t rows, int64_t depth, bool sums);

  SplitRows From(int64_t row) const;

 private:
  SplitRows all_;
  int64_t num_blocks_;
};

}  // namespace evolora
