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
  explicit FastHead(const at::Tensor& head_VD);  // fp32, contiguous

  // hidden [M, D]: the hidden states of layout.predicting after the final norm. Returns the sum of
  // the targets' cross entropies and writes d(sum * factor) / d hidden. Some rows at a time: never
  // more than about 4 million logits exist.
  double LossAndGradient(const TokenLayout& layout, const float* hidden, double factor,
                         float* d_hidden);

 private:
  at::Tensor head_VD_;
  PackedMatrix packed_;
  Buffer logits_;
  std::vector<double> losses_;  // of the rows of a chunk
};

}  // namespace evolora
