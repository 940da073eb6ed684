#pragma once

#include <cstdint>
#include <vector>

#include "ATen/core/Tensor.h"
#include "loss.h"
#include "token_layout.h"

namespace evolora {

// Sum of cross entropies of the labelled rows, and its gradient.
struct HeadLoss {
  double loss_sum = 0;     // natural log
  at::Tensor grad_hidden;  // [N, D], d(loss_sum * factor) / d hidden
};

// loss_sum = sum_n -log softmax(hidden_n W^T)[target_n], computed `rows_per_chunk` rows at a time
// so that never more than that many logits rows exist. hidden_ND [N, D] and head_VD [V, D] are both
// fp32 or both bf16 (then logits and their gradient are rounded, the loss is fp32); targets_N
// int64. Gradients are scaled by `factor`; the head's is added when it requires one.
HeadLoss ChunkedHeadLoss(const at::Tensor& hidden_ND, const at::Tensor& head_VD,
                         const at::Tensor& targets_N, double factor, int64_t rows_per_chunk = 128);

// What the rows of a head predict, as LogitsChunk has it: target n belongs to row n.
struct HeadTargets {
  std::vector<TokenLayout::Target> targets;
  std::vector<TokenLayout::Label> labels;
};

// The same for any loss.
HeadLoss ChunkedHeadLoss(const at::Tensor& hidden_ND, const at::Tensor& head_VD,
                         const HeadTargets& targets, Loss& loss, double factor,
                         int64_t rows_per_chunk = 128);

}  // namespace evolora
