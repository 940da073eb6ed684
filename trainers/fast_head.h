#pragma once

#include <cstdint>

#include "ATen/core/Tensor.h"
#include "buffer.h"
#include "evolora/model/packed_matrix.h"
#include "token_layout.h"

namespace evolora {

// The frozen head with the cross entropy of a micro-batch's targets.
class FastHead {
 public:
  // head_VD fp32, contiguous. Of logits, no more than about `logits_per_chunk` exist at once (but
  // always those of 16 rows).
  explicit FastHead(const at::Tensor& head_VD, int64_t logits_per_chunk = int64_t{4} << 20);

  // hidden [M, D]: the hidden states of layout.predicting after the final norm. Returns the sum of
  // the targets' cross entropies and writes d(sum * factor) / d hidden.
  double LossAndGradient(const TokenLayout& layout, const float* hidden, double factor,
                         float* d_hidden);

 private:
  at::Tensor head_VD_;
  PackedMatrix packed_;
  int64_t logits_per_chunk_;
  Buffer logits_;
  std::vector<double> losses_;  // of the rows of a chunk
};

}  // namespace evolora
