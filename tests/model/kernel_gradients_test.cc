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

// A narrow head, between others in the rows of its queries and outputs.
struct NarrowCase {
  int64_t rows, width, first_position, window;
  static constexpr int64_t kStride = 19;

  int64_t positions() const { return first_position + rows; }
  // 1 where a query does not look, [rows, positions].
  at::Tensor Hidden() const {
    const at::Tensor query = at::arange(first_position, positions()).unsqueeze(1);
    const at::Tensor key = at::arange(positions()).unsqueeze(0);
    at::Tensor hidden = key > query;
    if (window > 0) hidden = hidden.logical_or(key <= query - window);
    return hidden;
  }
  at::Tensor Rows(const std::vector<float>& values, int64_t count, int64_t stride) const {
    return Wrap(values).view({count, stride}).narrow(1, 0, width).clone();
  }
  std::vector<float> Keys(uint64_t seed) const {
    std::vector<float> keys = Values(positions() * kNarrowHead, seed, 3);
    for (size_t i = 0; i < keys.size(); ++i) {
      if (static_cast<int64_t>(i) % kNarrowHead >= width) keys[i] = 0;
    }
    return keys;
  }
};

void ExpectNarrowAttention(const KernelTable& table, const NarrowCase& c) {
  constexpr double kTolerance = 4e-6;  // of values up to 10
  const int64_t stride = NarrowCase::kStride;
  const std::vector<float> q = Values(c.rows * stride, 2, 3), d_out = Values(c.rows * stride, 5);
  const std::vector<float> k = c.Keys(3), v = c.Keys(4);
  const at::Tensor query = c.Rows(q, c.rows, stride).requires_grad_();
  const at::Tensor key = c.Rows(k, c.positions(), kNarrowHead).requires_grad_();
  const at::Tensor value = c.Rows(v, c.positions(), kNarrowHead).requires_grad_();
  const at::Tensor scores = (at::mm(query, key.t()) * 0.3).masked_fill(c.Hidden(), -INFINITY);
  const at::Tensor expected = at::mm(at::softmax(scores, 1), value);
  const at::Tensor dy = c.Rows(d_out, c.rows, stride);
  expected.backward(dy);

  const auto rows = static_cast<size_t>(c.rows);
  std::vector<float> max(rows), factor(rows), out(q.size(), 7), d_query(q.size(), 7);
  std::vector<float> d_key_values(2 * k.size(), 0.25f);
  const NarrowAttention args = {.rows = c.rows,
                                .first_position = c.first_position,
                                .window = c.window,
                                .width = c.width,
                                .queries = q.data(),
                                .ldq = stride,
                                .keys = k.data(),
                                .values = v.data(),
                                .scale = 0.3f,
                                .max = max.data(),
                                .factor = factor.data()};
  table.narrow_attention(args, out.data(), stride);
  EXPECT_LT((c.Rows(out, c.rows, stride) - expected).abs().max().item<double>(), kTolerance);
  std::vector<float> delta(2 * rows);
  const at::Tensor sums = (expected * dy).sum(1);
  for (size_t i = 0; i < rows; ++i) {
    delta[2 * i] = static_cast<float>(sums[static_cast<int64_t>(i)].item<double>());
  }
  table.narrow_attention_gradient(args, {.d_out = d_out.data(),
                                         .ldo = stride,
                                         .delta = delta.data(),
                                         .ld_delta = 2,
                                         .d_queries = d_query.data(),
                                         .d_keys_values = d_key_values.data()});
  const auto error = [&](const at::Tensor& mine, const at::Tensor& leaf) {
    return (mine - leaf.grad()).abs().max().item<double>();
  };
  EXPECT_LT(error(c.Rows(d_query, c.rows, stride), query), kTolerance);
  const at::Tensor pairs =
      Wrap(d_key_values).view({c.positions(), kNarrowHead, 2}).narrow(1, 0, c.width) - 0.25;
  EXPECT_LT(error(pairs.select(2, 0), key), kTolerance);
  EXPECT_LT(error(pairs.select(2, 1), value), kTolerance);
  // Nothing beside the head.
  for (size_t i = 0; i < q.size(); ++i) {
    if (static_cast<int64_t>(i) % stride < c.width) continue;
    EXPECT_EQ(out[i], 7);
    EXPECT_EQ(d_query[i], 7);
  }
}

TEST(Kernels, NarrowAttentionEqualsASoftmaxOverWhatEachQuerySees) {
  ForEachTable([](const KernelTable& table) {
    for (const int64_t rows : {1, 16, 37}) {
      for (const int64_t width : {1, 6, 8}) {
        for (const int64_t first_position : {0, 7, 40}) {
          for (const int64_t window : {0, 1, 16, 33}) {
            SCOPED_TRACE(::testing::Message() << rows << " rows, " << width << " wide, position "
                                              << first_position << ", window " << window);
            ExpectNarrowAttention(table, {rows, width, first_position, window});
          }
        }
      }
    }
  });
}

// What a query gets has the same bits alone.
TEST(Kernels, NarrowAttentionOfAQueryDependsOnNoOther) {
  ForEachTable([](const KernelTable& table) {
    for (const int64_t window : {0, 20}) {
      const NarrowCase c = {.rows = 45, .width = 8, .first_position = 9, .window = window};
      const std::vector<float> q = Values(c.rows * 8, 2, 3), k = c.Keys(3), v = c.Keys(4);
      std::vector<float> max(45), factor(45), all(q.size()), alone(8);
      NarrowAttention args = {.rows = c.rows,
                              .first_position = c.first_position,
                              .window = window,
                              .width = 8,
                              .queries = q.data(),
                              .ldq = 8,
                              .keys = k.data(),
                              .values = v.data(),
                              .scale = 0.3f,
                              .max = max.data(),
                              .factor = factor.data()};
      table.narrow_attention(args, all.data(), 8);
      for (const int64_t i : {0, 15, 16, 30, 44}) {
        args.rows = 1;
        args.first_position = c.first_position + i;
        args.queries = q.data() + i * 8;
        table.narrow_attention(args, alone.data(), 8);
        EXPECT_TRUE(std::equal(alone.begin(), alone.end(), all.begin() + i * 8)) << i;
      }
    }
  });
}

}  // namespace
}  // namespace evolora
