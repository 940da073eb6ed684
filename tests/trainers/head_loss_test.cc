#include "head_loss.h"

#include <vector>

#include "ATen/ops/mm.h"
#include "ATen/ops/randn.h"
#include "ATen/ops/tensor.h"
#include "gtest/gtest.h"

namespace evolora {
namespace {

// The chunked head against autograd's plain formula.
TEST(ChunkedHeadLoss, EqualsTheUnchunkedLossAndItsGradient) {
  const at::Tensor hidden = at::randn({37, 8}, at::kFloat).requires_grad_();
  const at::Tensor head = at::randn({19, 8}, at::kFloat);
  std::vector<int64_t> labels;
  for (int64_t i = 0; i < 37; ++i) labels.push_back(i % 19);
  const at::Tensor targets = at::tensor(labels, at::kLong);
  const at::Tensor loss =
      at::mm(hidden, head.t()).log_softmax(1).gather(1, targets.unsqueeze(1)).sum().neg();
  loss.backward();
  const HeadLoss chunked = ChunkedHeadLoss(hidden.detach(), head, targets, 0.5, 10);
  EXPECT_NEAR(chunked.loss_sum, loss.item<double>(), 1e-3);
  EXPECT_LT(chunked.grad_hidden.sub(hidden.grad(), 0.5).abs().max().item<double>(), 1e-5);
}

}  // namespace
}  // namespace evolora
