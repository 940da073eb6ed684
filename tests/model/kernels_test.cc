#include "evolora/model/kernels.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "model/kernel_tables.h"

namespace evolora {
namespace {

using testing::ForEachTable;
using testing::Values;

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

TEST(Kernels, RmsNormSoftmaxAndSiluEqualTheirFormulas) {
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
  });
}

TEST(Kernels, ExpHasFewUlpsWhereverItIsANumber) {
  ForEachTable([](const KernelTable& table) {
    std::vector<float> x;
    for (float value = -86.99f; value < 88; value += 0.0137f) x.push_back(value);
    std::vector<float> y = x;
    table.exp_shifted(y.data(), static_cast<int64_t>(y.size()), 0, 1);
    for (size_t i = 0; i < x.size(); ++i) {
      const double exact = std::exp(static_cast<double>(x[i]));
      EXPECT_NEAR(y[i] / exact, 1, 3 * 0x1p-24) << x[i];
    }
    float edges[] = {0, -87.5f, -3e38f, std::bit_cast<float>(0x7fc00001)};  // the last is no number
    table.exp_shifted(edges, 4, 0, 1);
    EXPECT_EQ(edges[0], 1);
    EXPECT_EQ(edges[1], 0);
    EXPECT_EQ(edges[2], 0);
    EXPECT_TRUE(std::isnan(edges[3]));
  });
}

TEST(Kernels, AddsToEachOfNValues) {
  ForEachTable([](const KernelTable& table) {
    for (const int64_t n : {1, 15, 16, 40}) {
      const std::vector<float> x = Values(n, 1), before = Values(n + 1, 2);
      std::vector<float> y = before;
      table.add(x.data(), n, y.data());
      for (int64_t i = 0; i < n; ++i) EXPECT_EQ(y[i], before[i] + x[i]);
      EXPECT_EQ(y.back(), before.back());
    }
  });
}

TEST(Kernels, RotateTurnsThePairsOfEachHead) {
  ForEachTable([](const KernelTable& table) {
    for (const int64_t half : {1, 4, 6, 8, 32}) {
      for (const int64_t count : {1, 3}) {
        SCOPED_TRACE(::testing::Message() << count << " heads of " << 2 * half);
        const std::vector<float> cos = Values(half, 1), sin = Values(half, 2);
        const std::vector<float> before = Values(2 * half * count + 1, 3);
        std::vector<float> heads = before;
        table.rotate(heads.data(), count, cos.data(), sin.data(), half);
        EXPECT_EQ(heads.back(), before.back());
        for (int64_t i = 0; i < half * count; ++i) {
          const int64_t low = i / half * 2 * half + i % half, high = low + half;
          const double c = cos[i % half], s = sin[i % half];
          EXPECT_NEAR(heads[low], before[low] * c - before[high] * s, 1e-6);
          EXPECT_NEAR(heads[high], before[high] * c + before[low] * s, 1e-6);
        }
      }
    }
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

}  // namespace
}  // namespace evolora
