// Kernels of attention and of the backward pass against LibTorch in double precision.
#include <algorithm>
#include <cmath>
#include <vector>

#include "ATen/ATen.h"
#include "evolora/model/kernels.h"
#include "gtest/gtest.h"
#include "model/kernel_tables.h"

namespace evolora {
namespace {

using testing::ForEachTable;
using testing::Values;

at::Tensor Wrap(const std::vector<float>& values) {
  return at::tensor(values, at::kFloat).to(at::kDouble);
}

double Difference(const std::vector<float>& mine, const at::Tensor& expected) {
  return (Wrap(mine) - expected).abs().max().item<double>();
}

TEST(Kernels, BackwardPassesEqualAutogradInDoublePrecision) {
  ForEachTable([](const KernelTable& table) {
    for (int64_t n : {1, 15, 16, 17, 100}) {
      SCOPED_TRACE(n);
      const std::vector<float> x = Values(n, 3, 4), w = Values(n, 4), dy = Values(n, 5);
      const at::Tensor leaf = Wrap(x).requires_grad_(), other = Wrap(w).requires_grad_();

      std::vector<float> unit(x.size()), y(x.size()), dx(x.size(), 0.25f);
      const float factor = table.rms_norm_keep(x.data(), w.data(), n, 1e-5f, unit.data(), y.data());
      table.rms_norm_backward(dy.data(), w.data(), unit.data(), factor, n, dx.data());
      const at::Tensor normed = leaf * at::rsqrt(leaf.pow(2).mean() + 1e-5);
      EXPECT_LT(Difference(unit, normed), 1e-6);
      EXPECT_LT(Difference(y, normed * Wrap(w)), 1e-6);
      (normed * Wrap(w)).backward(Wrap(dy));
      EXPECT_LT(Difference(dx, leaf.grad() + 0.25), 1e-6);

      leaf.mutable_grad() = at::Tensor();
      std::vector<float> gate = x, up = w, act(x.size());
      table.silu_mul_backward(gate.data(), up.data(), dy.data(), n, act.data());
      const at::Tensor product = at::silu(leaf) * other;
      product.backward(Wrap(dy));
      EXPECT_LT(Difference(act, product), 2e-6);
      EXPECT_LT(Difference(gate, leaf.grad()), 2e-6);
      EXPECT_LT(Difference(up, other.grad()), 2e-6);

      std::vector<float> e = x;
      table.exp_shifted(e.data(), n, 4, 0.5f);
      EXPECT_LT(Difference(e, (leaf - 4).exp() * 0.5), 1e-6);
    }
  });
}

// Scores of five queries and what the softmax over those that each one sees makes of them.
struct AttentionCase {
  static constexpr int64_t kRows = 5;
  int64_t first_position, window;
  int64_t columns() const { return (first_position + kRows + 15) / 16 * 16; }
  // [kRows, columns]: 1 where a query looks.
  at::Tensor Seen() const {
    at::Tensor seen = at::zeros({kRows, columns()}, at::kDouble);
    for (int64_t i = 0; i < kRows; ++i) {
      const int64_t end = first_position + i + 1;
      seen[i].slice(0, window > 0 ? std::max<int64_t>(0, end - window) : 0, end).fill_(1);
    }
    return seen;
  }
};

TEST(Kernels, AttentionRowsEqualASoftmaxOverWhatEachQuerySees) {
  ForEachTable([](const KernelTable& table) {
    for (const int64_t first_position : {0, 7, 14, 16, 40}) {
      for (const int64_t window : {0, 1, 3, 16, 33}) {
        SCOPED_TRACE(::testing::Message()
                     << "position " << first_position << ", window " << window);
        const AttentionCase c = {first_position, window};
        const int64_t rows = AttentionCase::kRows, columns = c.columns(), ld = columns + 16;
        const std::vector<float> scores = Values(rows * ld, 3, 20), dy = Values(rows * ld, 4);
        const auto used = [&](const at::Tensor& x) {
          return x.view({rows, ld}).narrow(1, 0, columns);
        };
        const at::Tensor leaf = used(Wrap(scores)).clone().requires_grad_();
        const at::Tensor hidden = c.Seen() == 0;
        const at::Tensor expected = at::softmax((leaf * 0.25).masked_fill(hidden, -INFINITY), 1);
        (expected * used(Wrap(dy))).sum().backward();

        std::vector<float> weights = scores, max(rows), factor(rows), d_weights = dy, delta(rows);
        AttentionRows args = {.rows = rows,
                              .first_position = first_position,
                              .window = window,
                              .columns = columns,
                              .scores = weights.data(),
                              .ld = ld,
                              .scale = 0.25f,
                              .max = max.data(),
                              .factor = factor.data()};
        table.attention_weights(args);
        const at::Tensor normed = used(Wrap(weights)) * Wrap(factor).unsqueeze(1);
        EXPECT_LT((normed - expected).abs().max().item<double>(), 1e-6);
        EXPECT_EQ(used(Wrap(weights)).masked_select(hidden).abs().sum().item<double>(), 0);

        weights = scores;
        const at::Tensor sums = (expected * used(Wrap(dy))).sum(1);
        for (int64_t i = 0; i < rows; ++i) delta[i] = static_cast<float>(sums[i].item<double>());
        table.attention_gradient(args, delta.data(), d_weights.data());
        EXPECT_LT((used(Wrap(weights)) - expected).abs().max().item<double>(), 1e-6);
        EXPECT_LT((used(Wrap(d_weights)) - leaf.grad()).abs().max().item<double>(), 1e-6);
        // Nothing behind the columns.
        for (int64_t i = 0; i < rows; ++i) {
          EXPECT_EQ(weights[i * ld + columns], scores[i * ld + columns]);
          EXPECT_EQ(d_weights[i * ld + columns], dy[i * ld + columns]);
        }
      }
    }
  });
}

}  // namespace
}  // namespace evolora
