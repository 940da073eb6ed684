// N labelled rows, D model width, V vocabulary.
#include "head_loss.h"

#include <algorithm>

#include "ATen/core/grad_mode.h"
#include "ATen/ops/empty_like.h"
#include "ATen/ops/full_like.h"
#include "ATen/ops/log_softmax.h"
#include "ATen/ops/mm.h"
#include "log_probs.h"

namespace evolora {
namespace {

// As fp32, whatever they are computed in.
at::Tensor Logits(const at::Tensor& hidden, const at::Tensor& head_VD) {
  return at::mm(hidden, head_VD.t()).to(at::kFloat);
}

// Sets the gradient of `hidden`; a trained head's is added to.
void AddGradients(const at::Tensor& grad_logits, const at::Tensor& hidden,
                  const at::Tensor& head_VD, at::Tensor grad_hidden) {
  const at::Tensor rounded = grad_logits.to(hidden.scalar_type());
  at::mm_out(grad_hidden, rounded, head_VD);
  if (head_VD.requires_grad()) head_VD.grad().add_(at::mm(rounded.t(), hidden));
}

}  // namespace

HeadLoss ChunkedHeadLoss(const at::Tensor& hidden_ND, const at::Tensor& head_VD,
                         const at::Tensor& targets_N, double factor, int64_t rows_per_chunk) {
  const at::NoGradGuard no_grad;
  HeadLoss result;
  result.grad_hidden = at::empty_like(hidden_ND);
  const int64_t num_rows = hidden_ND.size(0);
  for (int64_t begin = 0; begin < num_rows; begin += rows_per_chunk) {
    const int64_t count = std::min(rows_per_chunk, num_rows - begin);
    const at::Tensor hidden = hidden_ND.narrow(0, begin, count);
    const at::Tensor target = targets_N.narrow(0, begin, count).unsqueeze(1);
    at::Tensor log_probs = at::log_softmax(Logits(hidden, head_VD), /*dim=*/1);
    result.loss_sum -= log_probs.gather(1, target).sum(at::kDouble).item<double>();
    // d loss / d logits = softmax - onehot
    at::Tensor grad_logits = log_probs.exp_();
    grad_logits.scatter_add_(1, target, at::full_like(target, -1, grad_logits.options()));
    grad_logits.mul_(factor);
    AddGradients(grad_logits, hidden, head_VD, result.grad_hidden.narrow(0, begin, count));
  }
  return result;
}

namespace {

LogitsChunk ChunkOf(at::Tensor& logits_NV, int64_t begin, const HeadTargets& targets) {
  const int64_t count = logits_NV.size(0);
  return {.logits = logits_NV.mutable_data_ptr<float>(),
          .num_rows = count,
          .vocabulary = logits_NV.size(1),
          .first_row = begin,
          .targets = absl::MakeConstSpan(targets.targets)
                         .subspan(static_cast<size_t>(begin), static_cast<size_t>(count)),
          .labels = targets.labels};
}

}  // namespace

HeadLoss ChunkedHeadLoss(const at::Tensor& hidden_ND, const at::Tensor& head_VD,
                         const HeadTargets& targets, Loss& loss, double factor,
                         int64_t rows_per_chunk) {
  const at::NoGradGuard no_grad;
  HeadLoss result;
  result.grad_hidden = at::empty_like(hidden_ND);
  const int64_t num_rows = hidden_ND.size(0);
  const auto logits_at = [&](int64_t begin) {
    return Logits(hidden_ND.narrow(0, begin, std::min(rows_per_chunk, num_rows - begin)), head_VD);
  };
  if (loss.wants_log_probs()) {
    std::vector<double> log_probs(targets.labels.size());
    for (int64_t begin = 0; begin < num_rows; begin += rows_per_chunk) {
      at::Tensor logits_NV = logits_at(begin);
      LabelLogProbs(ChunkOf(logits_NV, begin, targets), absl::MakeSpan(log_probs));
    }
    result.loss_sum += loss.TakeLogProbs(targets.labels, log_probs);
  }
  for (int64_t begin = 0; begin < num_rows; begin += rows_per_chunk) {
    at::Tensor logits_NV = logits_at(begin);
    result.loss_sum += loss.LossAndGradient(ChunkOf(logits_NV, begin, targets), factor);
    const int64_t count = logits_NV.size(0);
    AddGradients(logits_NV, hidden_ND.narrow(0, begin, count), head_VD,
                 result.grad_hidden.narrow(0, begin, count));
  }
  return result;
}

}  // namespace evolora
