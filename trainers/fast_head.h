#pragma once

#include <cstdint>
#include <vector>

#include "ATen/core/Tensor.h"
#include "buffer.h"
#include "evolora/model/packed_matrix.h"
#include "loss.h"
#include "token_layout.h"

namespace evolora {

// The frozen head with the loss of a micro-batch's targets.
class FastHead {
 public:
  // head_VD fp32, contiguous. Of logits, no more than about `logits_per_chunk` exist at once (but
  // always those of 16 rows).
  explicit FastHead(const at::Tensor& head_VD, int64_t logits_per_chunk = int64_t{4} << 20);

  // hidden [M, D]: the hidden states of layout.predicting after the final norm. Returns the sum of
  // the micro-batch's losses and writes d(sum * factor) / d hidden.
  double LossAndGradient(const TokenLayout& layout, const float* hidden, Loss& loss, double factor,
                         float* d_hidden);

  // logits [rows, V] of hidden [rows, D].
  void Logits(const float* hidden, int64_t rows, float* logits) const;

 private:
  int64_t RowsPerChunk() const;
  LogitsChunk ChunkOf(const TokenLayout& layout, int64_t begin, int64_t count);
  double GiveLogProbs(const TokenLayout& layout, const float* hidden, Loss& loss);

  at::Tensor head_VD_;
  PackedMatrix packed_;
  int64_t logits_per_chunk_;
  Buffer logits_;
  std::vector<double> log_probs_;  // of the labels of a micro-batch
};

}  // namespace evolora
