#include "evolora/model/kernels.h"

#include <cmath>
#include <numeric>
#include <utility>
#include <vector>

#include "ATen/ATen.h"
#include "ATen/Parallel.h"
#include "evolora/core/random.h"
#include "evolora/model/packed_matrix.h"
#include "gtest/gtest.h"

namespace evolora {
namespace {

std::vector<float> Values(int64_t count, uint64_t seed, double scale = 1) {
  Random random(seed);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = static_cast<float>((random.NextDouble() - 0.5) * 2 * scale);
  return values;
}

// Runs `body` once for each instruction set this CPU has.
template <typename Body>
void ForEachTable(const Body& body) {
  const KernelTableList list = RunnableKernels();
  for (int i = 0; i < list.count; ++i) {
    SCOPED_TRACE(list.tables[i]->name);
    body(*list.tables[i]);
  }
}

struct GemmSize {
  int64_t rows, depth, columns;
};

std::vector<float> RunGemm(const KernelTable& table, const GemmSize& s, const float* x,
                           const float* panel, GemmStore store) {
  std::vector<float> y(static_cast<size_t>(s.rows * s.columns), 0.5f);
  const GemmTerm term = {.x = x, .ldx = s.depth, .panel = panel, .depth = s.depth};
  table.gemm({.terms = &term,
              .rows = s.rows,
              .y = y.data(),
              .ldy = s.columns,
              .columns = s.columns,
              .store = store});
  return y;
}

TEST(Kernels, GemmEqualsTheScalarSum) {
  const std::vector<float> x = Values(40 * 50, 1);
  const std::vector<float> panel = Values(50 * 32, 2);
  ForEachTable([&](const KernelTable& table) {
    for (const GemmSize& s : {GemmSize{1, 1, 1},
                              {1, 50, 32},
                              {5, 50, 31},
                              {12, 50, 32},
                              {13, 7, 32},
                              {24, 50, 3},
                              {40, 50, 32}}) {
      for (GemmStore store : {GemmStore::kSet, GemmStore::kAdd}) {
        const std::vector<float> y = RunGemm(table, s, x.data(), panel.data(), store);
        for (int64_t m = 0; m < s.rows; ++m) {
          for (int64_t n = 0; n < s.columns; ++n) {
            double sum = store == GemmStore::kAdd ? 0.5 : 0;
            for (int64_t k = 0; k < s.depth; ++k) {
              sum += static_cast<double>(x[static_cast<size_t>(m * s.depth + k)]) *
                     panel[static_cast<size_t>(k * 32 + n)];
            }
            ASSERT_NEAR(y[static_cast<size_t>(m * s.columns + n)], sum, 1e-5);
          }
        }
      }
    }
  });
}

TEST(Kernels, GemmReadsTransposedRowsAndPanelsOfAnyStride) {
  const std::vector<float> x = Values(50 * 40, 1);
  const std::vector<float> panel = Values(50 * 48, 2);
  ForEachTable([&](const KernelTable& table) {
    for (const GemmSize& s : {GemmSize{1, 50, 16}, {13, 50, 5}, {40, 50, 32}, {31, 3, 20}}) {
      std::vector<float> y(static_cast<size_t>(s.rows * s.columns), 0.5f);
      const GemmTerm term = {.x = x.data(),
                             .ldx = 40,
                             .panel = panel.data(),
                             .depth = s.depth,
                             .ldp = 48,
                             .transposed = true};
      table.gemm({.terms = &term,
                  .rows = s.rows,
                  .y = y.data(),
                  .ldy = s.columns,
                  .columns = s.columns,
                  .store = GemmStore::kAdd});
      for (int64_t m = 0; m < s.rows; ++m) {
        for (int64_t n = 0; n < s.columns; ++n) {
          double sum = 0.5;
          for (int64_t k = 0; k < s.depth; ++k) {
            sum += static_cast<double>(x[static_cast<size_t>(k * 40 + m)]) *
                   panel[static_cast<size_t>(k * 48 + n)];
          }
          ASSERT_NEAR(y[static_cast<size_t>(m * s.columns + n)], sum, 1e-5);
        }
      }
    }
  });
}

TEST(Kernels, GemmOverACopiedPanelGivesTheSameBits) {
  const std::vector<float> x = Values(50 * 50, 1);
  const std::vector<float> panel = Values(50 * 48, 2);
  ForEachTable([&](const KernelTable& table) {
    for (const bool transposed : {false, true}) {
      for (const int64_t rows : {1, 12, 13, 30, 50}) {
        std::vector<float> y(static_cast<size_t>(rows * 32)), direct = y, copy(50 * 32);
        GemmTerm term = {.x = x.data(),
                         .ldx = 50,
                         .panel = panel.data(),
                         .depth = 50,
                         .ldp = 48,
                         .transposed = transposed};
        GemmArgs args = {
            .terms = &term, .rows = rows, .y = direct.data(), .ldy = 32, .columns = 32};
        table.gemm(args);
        args.y = y.data();
        term.copy = copy.data();
        table.gemm(args);
        EXPECT_EQ(y, direct) << rows;
        for (size_t k = 0; k < 50; ++k) {
          EXPECT_TRUE(std::equal(&copy[k * 32], &copy[k * 32] + 32, &panel[k * 48])) << k;
        }
      }
    }
  });
}

// Of three depths, read in three ways.
TEST(Kernels, GemmOverTermsIsOneSumOverTheirDepths) {
  const int64_t depth = 40;
  const std::vector<float> x = Values(31 * depth, 1);
  const std::vector<float> panel = Values(depth * 32, 2);
  ForEachTable([&](const KernelTable& table) {
    for (const int64_t rows : {1, 13, 31}) {
      const GemmSize size = {rows, depth, 32};
      std::vector<float> left(static_cast<size_t>(rows * 9)), copy(9 * 32);
      for (int64_t k = 0; k < 9; ++k) {
        for (int64_t m = 0; m < rows; ++m) {
          left[static_cast<size_t>(k * rows + m)] = x[static_cast<size_t>(m * depth + 20 + k)];
        }
      }
      const GemmTerm terms[] = {
          {.x = x.data(), .ldx = depth, .panel = panel.data(), .depth = 20},
          {.x = left.data(),
           .ldx = rows,
           .panel = panel.data() + 20 * 32,
           .depth = 9,
           .transposed = true,
           .copy = copy.data()},
          {.x = x.data() + 29, .ldx = depth, .panel = panel.data() + 29 * 32, .depth = 11}};
      std::vector<float> y(static_cast<size_t>(rows * 32), 0.5f);
      table.gemm({.terms = terms,
                  .num_terms = 3,
                  .rows = rows,
                  .y = y.data(),
                  .ldy = 32,
                  .columns = 32,
                  .store = GemmStore::kAdd});
      EXPECT_EQ(y, RunGemm(table, size, x.data(), panel.data(), GemmStore::kAdd)) << rows;
    }
  });
}

TEST(Kernels, TransposeWritesColumnsOfAPanelAndNothingElse) {
  for (const auto& [rows, depth] :
       {std::pair<int64_t, int64_t>{32, 48}, {1, 1}, {16, 16}, {37, 53}, {8, 100}}) {
    const int64_t lds = depth + 3, ldd = rows + 2;
    const std::vector<float> source = Values(rows * lds, 3);
    ForEachTable([&, rows = rows, depth = depth](const KernelTable& table) {
      std::vector<float> out(static_cast<size_t>(depth * ldd), 7.0f);
      table.transpose(source.data(), lds, rows, depth, -2, out.data(), ldd);
      for (int64_t k = 0; k < depth; ++k) {
        for (int64_t j = 0; j < ldd; ++j) {
          const float expected = j < rows ? -2 * source[static_cast<size_t>(j * lds + k)] : 7.0f;
          ASSERT_EQ(out[static_cast<size_t>(k * ldd + j)], expected) << j << " " << k;
        }
      }
    });
  }
}

TEST(Kernels, AGemmRowsBitsDoNotDependOnTheNumberOfRows) {
  const std::vector<float> x = Values(40 * 50, 1);
  const std::vector<float> panel = Values(50 * 32, 2);
  ForEachTable([&](const KernelTable& table) {
    const std::vector<float> all =
        RunGemm(table, {40, 50, 32}, x.data(), panel.data(), GemmStore::kSet);
    for (int64_t rows = 1; rows < 40; ++rows) {
      const std::vector<float> some =
          RunGemm(table, {rows, 50, 32}, x.data(), panel.data(), GemmStore::kSet);
      ASSERT_TRUE(std::equal(some.begin(), some.end(), all.begin())) << rows;
    }
  });
}

TEST(Kernels, FmaTablesAreEqualBitForBit) {
  const KernelTableList list = RunnableKernels();
  if (list.count < 3) GTEST_SKIP() << "this CPU has no AVX-512";
  const std::vector<float> x = Values(20 * 50, 1);
  const std::vector<float> panel = Values(50 * 32, 2);
  const GemmSize size{20, 50, 32};
  EXPECT_EQ(RunGemm(*list.tables[1], size, x.data(), panel.data(), GemmStore::kAdd),
            RunGemm(*list.tables[2], size, x.data(), panel.data(), GemmStore::kAdd));
}

TEST(Kernels, RmsNormSoftmaxSiluAndRotateEqualTheirFormulas) {
  ForEachTable([](const KernelTable& table) {
    for (int64_t n : {1, 2, 15, 16, 17, 100}) {
      const std::vector<float> x = Values(n, 3, 4);
      const std::vector<float> w = Values(n, 4);
      std::vector<float> y(x.size());
      double squares = 0;
      for (float value : x) squares += static_cast<double>(value) * value;
      table.rms_norm(x.data(), w.data(), n, 1e-5f, y.data());
      for (size_t i = 0; i < x.size(); ++i) {
        EXPECT_NEAR(y[i], w[i] * x[i] / std::sqrt(squares / static_cast<double>(n) + 1e-5), 1e-5);
      }
      table.silu_mul(x.data(), w.data(), n, y.data());
      for (size_t i = 0; i < x.size(); ++i) {
        EXPECT_NEAR(y[i], x[i] / (1 + std::exp(-static_cast<double>(x[i]))) * w[i], 1e-6);
      }
      y = x;
      table.softmax(y.data(), n, 0.25f);
      double total = 0;
      double lse = 0;
      for (float value : x) total += std::exp(0.25 * value);
      for (float value : x) lse += std::exp(static_cast<double>(value));
      for (size_t i = 0; i < x.size(); ++i) EXPECT_NEAR(y[i], std::exp(0.25 * x[i]) / total, 1e-6);
      EXPECT_NEAR(table.log_sum_exp(x.data(), n), std::log(lse), 1e-6);
    }
    std::vector<float> head = {1, 2, 3, 4};
    const std::vector<float> cos = {0.5f, 0.25f};
    const std::vector<float> sin = {2, 3};
    table.rotate(head.data(), cos.data(), sin.data(), 2);
    EXPECT_EQ(head, (std::vector<float>{1 * 0.5f - 3 * 2, 2 * 0.25f - 4 * 3, 3 * 0.5f + 1 * 2,
                                        4 * 0.25f + 2 * 3}));
  });
}

TEST(Kernels, MaxIsTheGreatestValueWhereverItLies) {
  ForEachTable([](const KernelTable& table) {
    for (const int64_t n : {1, 7, 16, 17, 40}) {
      std::vector<float> x = Values(n, 6);
      for (float& value : x) value -= 10;
      for (float& value : x) {
        const float before = std::exchange(value, -1.5f);
        EXPECT_EQ(table.max(x.data(), n), -1.5f) << n;
        value = before;
      }
    }
  });
}

TEST(Kernels, SiluAndSoftmaxHoldForExtremeInputs) {
  ForEachTable([](const KernelTable& table) {
    const std::vector<float> x = {-1e4f, -90, -88, 88, 90, 1e4f};
    const std::vector<float> one(6, 1.0f);
    std::vector<float> y(6);
    table.silu_mul(x.data(), one.data(), 6, y.data());
    EXPECT_NEAR(y[0], 0, 1e-30);
    EXPECT_EQ(y[5], 1e4f);
    EXPECT_NEAR(y[3], 88, 1e-4);
    std::vector<float> p = x;
    table.softmax(p.data(), 6, 1);
    EXPECT_EQ(p, (std::vector<float>{0, 0, 0, 0, 0, 1}));
    EXPECT_NEAR(table.log_sum_exp(x.data(), 6), 1e4, 1e-3);
  });
}

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
        SCOPED_TRACE(testing::Message() << "position " << first_position << ", window " << window);
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

TEST(PackedMatrix, EqualsTheLinearLayerAndStacksParts) {
  const at::Tensor first = at::randn({45, 30});
  const at::Tensor second = at::randn({7, 30});
  const at::Tensor x = at::randn({19, 30});
  const PackedMatrix packed({first, second}, 0.5);
  ASSERT_EQ(packed.out_features(), 52);
  ASSERT_EQ(packed.in_features(), 30);
  at::Tensor y = at::full({19, 52}, 3.0f);
  packed.Apply(x.const_data_ptr<float>(), 30, 19, y.mutable_data_ptr<float>(), 52);
  const at::Tensor expected = at::linear(x, at::cat({first, second})).mul(0.5);
  EXPECT_LT((y - expected).abs().max().item<float>(), 1e-5);
  packed.ApplyAdd(x.const_data_ptr<float>(), 30, 19, y.mutable_data_ptr<float>(), 52);
  EXPECT_LT((y - expected * 2).abs().max().item<float>(), 1e-5);
}

TEST(PackedMatrix, BitsDoNotDependOnRowsOrThreads) {
  const at::Tensor weight = at::randn({200, 130});
  const at::Tensor x = at::randn({33, 130});
  const PackedMatrix packed({weight});
  const int threads = at::get_num_threads();
  at::Tensor all = at::empty({33, 200});
  packed.Apply(x.const_data_ptr<float>(), 130, 33, all.mutable_data_ptr<float>(), 200);
  for (int num_threads : {1, 2}) {
    at::set_num_threads(num_threads);
    for (int64_t m = 0; m < 33; ++m) {
      at::Tensor one = at::empty({1, 200});
      packed.Apply(x.const_data_ptr<float>() + m * 130, 130, 1, one.mutable_data_ptr<float>(), 200);
      EXPECT_TRUE(at::equal(one[0], all[m]));
    }
  }
  at::set_num_threads(threads);
}

}  // namespace
}  // namespace evolora
