// Products of bf16 factors against scalar sums, in every table that this CPU runs, and by tiles
// that are emulated.
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "ATen/ATen.h"
#include "c10/util/BFloat16.h"
#include "evolora/model/compact_matrix.h"
#include "evolora/model/kernels.h"
#include "gtest/gtest.h"
#include "model/kernel_tables.h"
#include "model/random_model.h"

namespace evolora {
namespace {

using testing::ForEachTable;
using testing::ForEachTileTable;
using testing::Values;

uint16_t Bits(float value) { return c10::BFloat16(value).x; }

double Wide(uint16_t bits) {
  const uint32_t word = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &word, sizeof value);
  return static_cast<double>(value);
}

std::vector<uint16_t> RoundedValues(int64_t count, uint64_t seed) {
  std::vector<uint16_t> rounded;
  for (const float value : Values(count, seed)) rounded.push_back(Bits(value));
  return rounded;
}

// Row k of a panel's columns is weight[k], 32 wide.
std::vector<uint16_t> Panel(const std::vector<uint16_t>& weight, int64_t depth) {
  std::vector<uint16_t> panel(static_cast<size_t>((depth + 1) / 2 * 64));
  for (int64_t k = 0; k < depth; ++k) {
    for (int64_t j = 0; j < 32; ++j) {
      panel[static_cast<size_t>(k / 2 * 64 + 2 * j + k % 2)] =
          weight[static_cast<size_t>(k * 32 + j)];
    }
  }
  return panel;
}

struct Sizes {
  int64_t rows, depth, columns;
};
const std::vector<Sizes> kSizes = {{1, 1, 1},    {1, 50, 32},  {5, 49, 31},  {8, 3, 16},
                                   {13, 7, 17},  {24, 64, 3},  {40, 33, 32}, {16, 32, 32},
                                   {32, 96, 32}, {33, 31, 32}, {65, 160, 20}};

// x is [rows, depth], zeros behind an odd depth.
struct Problem {
  Problem(const Sizes& s, uint64_t seed)
      : sizes(s),
        ldx((s.depth + 1) / 2 * 2 + 6),
        x(RoundedValues(s.rows * ldx, seed)),
        weight(RoundedValues(s.depth * 32, seed + 1)),
        panel(Panel(weight, s.depth)) {
    for (int64_t m = 0; m < s.rows && s.depth % 2 != 0; ++m) {
      x[static_cast<size_t>(m * ldx + s.depth)] = 0;
    }
  }
  PairTerm term() const {
    return {.x = x.data(), .ldx = ldx, .panel = panel.data(), .pairs = (sizes.depth + 1) / 2};
  }
  // The sum of (m, n), and that of its terms' sizes.
  std::pair<double, double> Sum(int64_t m, int64_t n) const {
    double sum = 0, size = 0;
    for (int64_t k = 0; k < sizes.depth; ++k) {
      const double term =
          Wide(x[static_cast<size_t>(m * ldx + k)]) * Wide(weight[static_cast<size_t>(k * 32 + n)]);
      sum += term;
      size += std::abs(term);
    }
    return {sum, size};
  }

  Sizes sizes;
  int64_t ldx;
  std::vector<uint16_t> x, weight, panel;
};

std::vector<float> Multiply(const KernelTable& table, const std::vector<PairTerm>& terms,
                            const Sizes& s, GemmStore store) {
  std::vector<float> y(static_cast<size_t>(s.rows * s.columns), 0.5f);
  table.gemm_pairs({.terms = terms.data(),
                    .num_terms = static_cast<int64_t>(terms.size()),
                    .rows = s.rows,
                    .y = y.data(),
                    .ldy = s.columns,
                    .columns = s.columns,
                    .store = store});
  return y;
}

// Each of at most `depth` additions in fp32 rounds by 2^-24 of a partial sum, which is no larger
// than the sum of the terms' sizes. Rounding the factors is not in it: a product that is rounded
// once more or not at all is off by 2^-9.
TEST(KernelPairs, GemmEqualsTheScalarSumOfRoundedFactors) {
  ForEachTileTable([](const KernelTable& table) {
    for (const Sizes& s : kSizes) {
      const Problem one(s, 1), other({s.rows, s.depth + 3, s.columns}, 5);
      for (const GemmStore store : {GemmStore::kSet, GemmStore::kAdd}) {
        const std::vector<float> y = Multiply(table, {one.term(), other.term()}, s, store);
        for (int64_t m = 0; m < s.rows; ++m) {
          for (int64_t n = 0; n < s.columns; ++n) {
            const auto [a, a_size] = one.Sum(m, n);
            const auto [b, b_size] = other.Sum(m, n);
            const double expected = a + b + (store == GemmStore::kAdd ? 0.5 : 0);
            const double bound =
                std::ldexp(static_cast<double>(2 * s.depth + 5) * (a_size + b_size + 0.5), -24);
            ASSERT_NEAR(y[static_cast<size_t>(m * s.columns + n)], expected, bound)
                << s.rows << " " << s.depth << " " << s.columns;
          }
        }
      }
    }
  });
}

TEST(KernelPairs, ARowsBitsDoNotDependOnTheOthers) {
  ForEachTileTable([](const KernelTable& table) {
    for (const int64_t depth : {33, 64}) {
      const Problem all({40, depth, 32}, 3);
      const std::vector<float> y = Multiply(table, {all.term()}, all.sizes, GemmStore::kSet);
      for (int64_t m = 0; m < 40; ++m) {
        PairTerm term = all.term();
        term.x += m * all.ldx;
        const std::vector<float> alone = Multiply(table, {term}, {1, depth, 32}, GemmStore::kSet);
        EXPECT_EQ(std::memcmp(alone.data(), &y[static_cast<size_t>(m * 32)], 128), 0) << m;
      }
    }
  });
}

TEST(KernelPairs, RoundsAsLibTorchAndKeepsWhatIsNotFinite) {
  std::vector<float> x = Values(70, 4);
  x.insert(x.end(), {0.0f, -0.0f, 1e-40f, -3e-39f, std::numeric_limits<float>::max(),
                     std::numeric_limits<float>::infinity(),
                     -std::numeric_limits<float>::infinity(), 1.00390625f, 1.01171875f});
  const uint32_t nan_bits = 0xffffffffu;
  float nan;
  std::memcpy(&nan, &nan_bits, sizeof nan);
  ForEachTable([&](const KernelTable& table) {
    std::vector<uint16_t> y(x.size());
    table.round_bf16(x.data(), static_cast<int64_t>(x.size()), y.data());
    for (size_t i = 0; i < x.size(); ++i) EXPECT_EQ(y[i], Bits(x[i])) << x[i];
    uint16_t rounded = 0;
    table.round_bf16(&nan, 1, &rounded);
    EXPECT_TRUE(std::isnan(Wide(rounded)));
  });
}

TEST(KernelPairs, PanelsHoldTheRoundedRows) {
  const int64_t ld = 48;
  const std::vector<float> rows = Values(41 * ld, 8);
  const std::vector<uint16_t> rounded = RoundedValues(41 * ld, 8);
  ForEachTable([&](const KernelTable& table) {
    for (const int64_t depth : {1, 2, 7, 40, 41}) {
      for (const int64_t columns : {1, 15, 32}) {
        std::vector<uint16_t> weight(static_cast<size_t>(depth * 32));
        for (int64_t k = 0; k < depth; ++k) {
          for (int64_t j = 0; j < columns; ++j) {
            weight[static_cast<size_t>(k * 32 + j)] = rounded[static_cast<size_t>(k * ld + j)];
          }
        }
        const std::vector<uint16_t> expected = Panel(weight, depth);
        std::vector<uint16_t> panel(expected.size(), 7);
        table.round_pairs(rows.data(), ld, depth, columns, panel.data());
        EXPECT_EQ(panel, expected) << depth << " " << columns;
        if (columns < 32) continue;
        panel.assign(expected.size(), 7);
        table.join_pairs(rounded.data(), ld, depth, panel.data());
        EXPECT_EQ(panel, expected) << depth;
      }
    }
  });
}

TEST(KernelPairs, TransposedRowsAreColumns) {
  const int64_t ld = 70;
  const std::vector<uint16_t> rows = RoundedValues(32 * ld, 9);
  ForEachTable([&](const KernelTable& table) {
    for (const int64_t count : {1, 9, 16, 31, 32}) {
      for (const int64_t pairs : {1, 8, 20, 35}) {
        std::vector<uint16_t> weight(static_cast<size_t>(2 * pairs * 32));
        for (int64_t k = 0; k < 2 * pairs; ++k) {
          for (int64_t j = 0; j < count; ++j) {
            weight[static_cast<size_t>(k * 32 + j)] = rows[static_cast<size_t>(j * ld + k)];
          }
        }
        std::vector<uint16_t> panel(weight.size(), 7);
        table.transpose_pairs(rows.data(), ld, count, pairs, panel.data());
        EXPECT_EQ(panel, Panel(weight, 2 * pairs)) << count << " " << pairs;
      }
    }
  });
}

double SumOfParts(const std::vector<uint16_t>& parts, int64_t part, int64_t i) {
  double sum = 0;
  for (int64_t p = 0; p < kBf16Parts; ++p) sum += Wide(parts[static_cast<size_t>(p * part + i)]);
  return sum;
}

// Sizes as of gradients and of activations, and numbers with few and with all digits.
std::vector<float> ManySizes(int64_t count, uint64_t seed) {
  std::vector<float> x = Values(count, seed);
  for (size_t i = 0; i < x.size(); ++i) x[i] *= std::ldexp(1.0f, static_cast<int>(i % 80) - 60);
  x[0] = 1.0f;
  x[1] = -0.0f;
  x[2] = 1.00390625f;                  // halfway between two bf16 numbers
  x[3] = std::ldexp(16777215.0f, 10);  // 24 ones
  x[4] = std::numeric_limits<float>::max() / 2;
  return x;
}

TEST(KernelParts, PartsAddUpToTheNumber) {
  const int64_t n = 101, part = 128;
  const std::vector<float> x = ManySizes(n, 11);
  ForEachTable([&](const KernelTable& table) {
    std::vector<uint16_t> parts(static_cast<size_t>(kBf16Parts * part), 7);
    table.split_bf16x3(x.data(), n, part, parts.data());
    for (int64_t i = 0; i < n; ++i) {
      EXPECT_EQ(SumOfParts(parts, part, i), static_cast<double>(x[static_cast<size_t>(i)])) << i;
      // No part leaves more than half of its last digit.
      for (int64_t p = 0; p + 1 < kBf16Parts; ++p) {
        double left = x[static_cast<size_t>(i)];
        for (int64_t q = 0; q <= p; ++q) left -= Wide(parts[static_cast<size_t>(q * part + i)]);
        EXPECT_LE(std::abs(left),
                  std::abs(std::ldexp(x[static_cast<size_t>(i)], -8 * static_cast<int>(p + 1))));
      }
    }
    EXPECT_EQ(parts[static_cast<size_t>(n)], 7);
  });
}

TEST(KernelParts, BlocksAreAddedTheSameInEveryTable) {
  const int64_t n = 101;
  const std::vector<float> x = Values(n, 13);
  float first[4];
  Kernels().sum_blocks(x.data(), n, first);
  ForEachTable([&](const KernelTable& table) {
    float sums[5] = {0, 0, 0, 0, 7};
    table.sum_blocks(x.data(), n, sums);
    for (int64_t b = 0; b < 4; ++b) {
      double sum = 0;
      for (int64_t k = 32 * b; k < std::min(n, 32 * b + 32); ++k)
        sum += static_cast<double>(x[static_cast<size_t>(k)]);
      EXPECT_NEAR(sums[b], sum, 32 * std::ldexp(6, -24));
      EXPECT_EQ(sums[b], first[b]);
    }
    EXPECT_EQ(sums[4], 7);
  });
}

TEST(KernelParts, WhatIsNotFiniteStaysSo) {
  const float x[] = {std::numeric_limits<float>::infinity(),
                     -std::numeric_limits<float>::infinity(),
                     std::numeric_limits<float>::quiet_NaN()};
  ForEachTable([&](const KernelTable& table) {
    std::vector<uint16_t> parts(3 * kBf16Parts);
    table.split_bf16x3(x, 3, 3, parts.data());
    for (int64_t i = 0; i < 3; ++i) EXPECT_TRUE(std::isnan(SumOfParts(parts, 3, i))) << x[i];
  });
}

// Of all forms, in both directions, with odd depths and columns that fill no panel.
TEST(KernelPairs, PairsOfACompactMatrixAreItsWidenedPanelsRounded) {
  const int64_t out = 45, in = 71;
  const at::Tensor weight = at::randn({out, in});
  for (const BlockForm form : testing::kAllBlockForms) {
    SCOPED_TRACE(BlockFormName(form));
    const CompactMatrix matrix = testing::Stored(form, weight);
    const auto expect = [&](const std::vector<float>& wide, const std::vector<uint16_t>& panel,
                            int64_t depth, int64_t columns) {
      for (int64_t k = 0; k < depth; ++k) {
        for (int64_t j = 0; j < columns; ++j) {
          ASSERT_EQ(panel[static_cast<size_t>(k / 2 * 64 + 2 * j + k % 2)],
                    Bits(wide[static_cast<size_t>(k * 32 + j)]))
              << k << " " << j;
        }
      }
    };
    for (const int64_t first_out : {0, 32}) {
      std::vector<float> wide(39 * 32);
      std::vector<uint16_t> panel(40 * 32);
      matrix.WidenTransposed(32, 39, first_out, wide.data());
      matrix.PairsTransposed(32, 39, first_out, panel.data());
      expect(wide, panel, 39, 32);
    }
    for (const int64_t first_in : {0, 64}) {
      std::vector<float> wide(37 * 32);
      std::vector<uint16_t> panel(38 * 32);
      matrix.WidenPanel(8, 37, first_in, wide.data());
      matrix.PairsPanel(8, 37, first_in, panel.data());
      expect(wide, panel, 37, std::min<int64_t>(32, in - first_in));
    }
  }
}

}  // namespace
}  // namespace evolora
