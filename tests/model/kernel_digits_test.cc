// Products of fp32 factors by digits of 8 bits against scalar sums, in every table that this CPU
// runs, and by tiles that are emulated.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>
#include <vector>

#include "ATen/ATen.h"
#include "c10/util/Half.h"
#include "evolora/model/compact_matrix.h"
#include "evolora/model/kernels.h"
#include "gtest/gtest.h"
#include "model/kernel_tables.h"

namespace evolora {
namespace {

using testing::ForEachTable;
using testing::ForEachTileTable;
using testing::Values;

// The greatest integer that digits are of (kernels.h): half of one is the greatest error.
constexpr double kMostInteger = 127 * 65536 + 127 * 256 + 124;

int64_t StepsOf(int64_t depth) { return (depth + kDigitStep - 1) / kDigitStep; }
int64_t ChunksOf(int64_t depth) { return (depth + kDigitChunk - 1) / kDigitChunk; }
int64_t ChunkDepth(int64_t chunk, int64_t depth) {
  return std::min(kDigitChunk, depth - chunk * kDigitChunk);
}
size_t PlaceInRow(int64_t k, int d) {
  return static_cast<size_t>(k / kDigitStep * kDigits * kDigitStep + d * kDigitStep +
                             k % kDigitStep);
}
size_t PlaceInPanel(int64_t k, int64_t column, int d, int64_t depth) {
  const int64_t chunk = k / kDigitChunk, in_chunk = k % kDigitChunk;
  const int64_t steps = StepsOf(ChunkDepth(chunk, depth));
  const int64_t half = chunk * kDigitChunk * kDigits * 32 + column / 16 * steps * kDigits * 1024;
  return static_cast<size_t>(half + in_chunk / kDigitStep * kDigits * 1024 + d * 1024 +
                             in_chunk % kDigitStep / 4 * 64 + column % 16 * 4 + k % 4);
}

struct SlicedRow {
  std::vector<int8_t> digits;
  std::vector<float> scales;

  double At(int64_t k) const {
    double value = 0;
    for (int d = kDigits - 1; d >= 0; --d) value = value / 256 + digits[PlaceInRow(k, d)];
    return value * static_cast<double>(scales[static_cast<size_t>(k / kDigitChunk)]);
  }
};
SlicedRow Slice(const KernelTable& table, const std::vector<float>& x) {
  const auto n = static_cast<int64_t>(x.size());
  SlicedRow row = {std::vector<int8_t>(static_cast<size_t>(StepsOf(n) * 192 + 1), 77),
                   std::vector<float>(static_cast<size_t>(ChunksOf(n) + 1), 77.0f)};
  table.slice_row(x.data(), n, row.digits.data(), row.scales.data());
  EXPECT_EQ(row.digits.back(), 77);
  EXPECT_EQ(row.scales.back(), 77.0f);
  return row;
}

double GreatestOfChunk(const std::vector<float>& x, int64_t chunk) {
  double greatest = 0;
  const auto n = static_cast<int64_t>(x.size());
  for (int64_t k = chunk * kDigitChunk; k < chunk * kDigitChunk + ChunkDepth(chunk, n); ++k) {
    greatest = std::max(greatest, std::abs(static_cast<double>(x[static_cast<size_t>(k)])));
  }
  return greatest;
}

// Of many sizes; the greatest of a chunk of either sign.
std::vector<float> ManySizes(int64_t n, uint64_t seed) {
  std::vector<float> x = Values(n, seed);
  for (size_t i = 0; i < x.size(); ++i) x[i] *= std::ldexp(1.0f, static_cast<int>(i % 30) - 20);
  x[0] = -4096.0f;
  if (n > kDigitChunk) x[kDigitChunk] = 1.5f;
  return x;
}

TEST(KernelDigits, ARowsDigitsGiveItsNumbers) {
  for (const int64_t n : {1, 15, 63, 64, 65, 191, 192, 193, 450}) {
    SCOPED_TRACE(n);
    const std::vector<float> x = ManySizes(n, 11);
    const SlicedRow first = Slice(Kernels(), x);
    ForEachTable([&](const KernelTable& table) {
      const SlicedRow row = Slice(table, x);
      for (int64_t k = 0; k < n; ++k) {
        // Half an integer, and what rounding the scale and the quotient takes.
        const double greatest = GreatestOfChunk(x, k / kDigitChunk);
        ASSERT_NEAR(row.At(k), static_cast<double>(x[static_cast<size_t>(k)]),
                    greatest * (0.5 / kMostInteger) +
                        std::abs(static_cast<double>(x[static_cast<size_t>(k)])) * 0x1p-22)
            << k;
      }
      for (int64_t k = n; k < StepsOf(n) * kDigitStep; ++k) {
        for (int d = 0; d < kDigits; ++d) ASSERT_EQ(row.digits[PlaceInRow(k, d)], 0);
      }
      EXPECT_EQ(row.digits, first.digits);
      EXPECT_EQ(row.scales, first.scales);
    });
  }
}

TEST(KernelDigits, TheGreatestDigitStaysWithin127) {
  std::vector<float> x(kDigitChunk);
  for (size_t i = 0; i < x.size(); ++i) {
    x[i] = std::ldexp(i % 2 == 0 ? 1.0f : -1.0f, -static_cast<int>(i) / 8);
  }
  for (int size = 0; size < 200; ++size) {
    x[0] = 1.0f + static_cast<float>(size) * 0.00511f;
    x[1] = -x[0];
    ForEachTable([&](const KernelTable& table) {
      const SlicedRow row = Slice(table, x);
      EXPECT_EQ(row.digits[0], 127);
      EXPECT_EQ(row.digits[1], -127);
      EXPECT_NEAR(row.At(0), static_cast<double>(x[0]), 2.1 * 0x1p-23);
    });
  }
}

TEST(KernelDigits, SmallNumbersLoseDigitsAndZerosStayZeros) {
  ForEachTable([&](const KernelTable& table) {
    const std::vector<float> zeros(40, 0.0f);
    for (int64_t k = 0; k < 40; ++k) EXPECT_EQ(Slice(table, zeros).At(k), 0);
    for (const float size : {0x1p-99f, 0x1p-101f, 0x1p-126f, 0x1p-140f}) {
      const std::vector<float> x = {size, -0.75f * size};
      const SlicedRow row = Slice(table, x);
      for (const int64_t k : {0, 1}) {
        EXPECT_NEAR(row.At(k), static_cast<double>(x[static_cast<size_t>(k)]), 0x1p-122) << size;
      }
    }
  });
}

TEST(KernelDigits, AChunkThatIsNotFiniteHasNoScale) {
  for (const float bad :
       {std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
        std::numeric_limits<float>::quiet_NaN()}) {
    std::vector<float> x = Values(300, 3);
    x[200] = bad;
    ForEachTable([&](const KernelTable& table) {
      const SlicedRow row = Slice(table, x);
      EXPECT_TRUE(std::isfinite(row.scales[0]));
      EXPECT_TRUE(std::isnan(row.scales[1]));
    });
  }
}

struct SlicedPanel {
  SlicedPanel(const KernelTable& table, const std::vector<float>& rows, int64_t ld, int64_t depth,
              int64_t columns)
      : digits(static_cast<size_t>(StepsOf(depth) * kDigitStep * kDigits * 32), 77),
        scales(static_cast<size_t>(ChunksOf(depth) * 32), 77.0f) {
    table.slice_panel(rows.data(), ld, depth, columns, digits.data(), scales.data());
  }
  std::vector<int8_t> digits;
  std::vector<float> scales;
};

TEST(KernelDigits, APanelsColumnsAreSlicedAsRows) {
  const int64_t ld = 40;
  const std::vector<float> rows = ManySizes(450 * ld, 12);
  for (const int64_t depth : {1, 5, 64, 191, 193, 450}) {
    for (const int64_t columns : {1, 15, 16, 17, 32}) {
      SCOPED_TRACE(::testing::Message() << depth << " " << columns);
      ForEachTable([&](const KernelTable& table) {
        const SlicedPanel panel(table, rows, ld, depth, columns);
        for (int64_t j = 0; j < columns; ++j) {
          std::vector<float> column;
          for (int64_t k = 0; k < depth; ++k) {
            column.push_back(rows[static_cast<size_t>(k * ld + j)]);
          }
          const SlicedRow row = Slice(table, column);
          for (int64_t k = 0; k < StepsOf(depth) * kDigitStep; ++k) {
            for (int d = 0; d < kDigits; ++d) {
              ASSERT_EQ(panel.digits[PlaceInPanel(k, j, d, depth)], row.digits[PlaceInRow(k, d)])
                  << k << " " << j << " " << d;
            }
          }
          for (int64_t c = 0; c < ChunksOf(depth); ++c) {
            ASSERT_EQ(panel.scales[static_cast<size_t>(c * 32 + j)],
                      row.scales[static_cast<size_t>(c)]);
          }
        }
      });
    }
  }
}

// Weights of 4 bits, whose blocks hold their least and their greatest value, and as fp32.
struct Q4Matrix {
  static constexpr int64_t kOut = 250, kIn = 192;

  explicit Q4Matrix(BlockForm form) : compact(form, kOut, kIn) {
    CompactMatrix halves(BlockForm::kQ4, kOut, kIn);
    const std::vector<float> values = Values(kOut * kIn, 21);
    halves.StoreRows(0, kOut, values.data());
    for (int64_t i = 0; i < kOut; ++i) {
      for (int64_t b = 0; b < kIn / kCompactBlock; ++b) Copy(halves, i, b);
    }
    wide = compact.Widen(0, kOut);
  }
  void Copy(const CompactMatrix& halves, int64_t row, int64_t b) {
    const auto& from = reinterpret_cast<const Q4Weights*>(halves.row(row))[b];
    if (compact.form() == BlockForm::kQ4) {
      reinterpret_cast<Q4Weights*>(compact.mutable_row(row))[b] = from;
      return;
    }
    auto& to = reinterpret_cast<Q4FloatWeights*>(compact.mutable_row(row))[b];
    to.scale = static_cast<float>(c10::Half(from.scale, c10::Half::from_bits()));
    to.low = static_cast<float>(c10::Half(from.low, c10::Half::from_bits()));
    std::copy_n(from.values, kCompactBlock / 2, to.values);
  }
  int64_t row_bytes() const { return compact.bytes() / kOut; }

  CompactMatrix compact;
  at::Tensor wide;  // [out, in]
};

// Runs body(digits, matrix) for each table that has digits of the form.
template <typename Body>
void ForEachQ4(const Body& body) {
  for (const BlockForm form : {BlockForm::kQ4, BlockForm::kQ4Float}) {
    const Q4Matrix matrix(form);
    ForEachTable([&](const KernelTable& table) {
      if (table.Of(form).digits.panel != nullptr) body(table, matrix);
    });
  }
}

TEST(KernelDigits, RowsOf4BitsGiveTheDigitsOfTheirNumbers) {
  ForEachQ4([](const KernelTable& table, const Q4Matrix& m) {
    for (const int64_t depth : {32, 64, 96, 192}) {
      for (const int64_t rows : {1, 16, 17, 32}) {
        SCOPED_TRACE(::testing::Message() << depth << " " << rows);
        const at::Tensor columns = m.wide.narrow(0, 3, rows).narrow(1, 0, depth).t().contiguous();
        const std::vector<float> values(columns.const_data_ptr<float>(),
                                        columns.const_data_ptr<float>() + columns.numel());
        const SlicedPanel expected(table, values, rows, depth, rows);
        std::vector<int8_t> digits(expected.digits.size(), 77);
        std::vector<float> scales(expected.scales.size(), 77.0f);
        table.Of(m.compact.form())
            .digits.transposed(m.compact.row(3), m.row_bytes(), rows, depth, digits.data(),
                               scales.data());
        EXPECT_EQ(digits, expected.digits);
        for (int64_t j = 0; j < rows; ++j) {
          EXPECT_EQ(scales[static_cast<size_t>(j)], expected.scales[static_cast<size_t>(j)]);
        }
      }
    }
  });
}

TEST(KernelDigits, PanelsOf4BitsHaveTheScaleOfTheirGreatest) {
  ForEachQ4([](const KernelTable& table, const Q4Matrix& m) {
    for (const int64_t depth : {1, 6, 64, 67, 192}) {
      SCOPED_TRACE(depth);
      const at::Tensor rows = m.wide.narrow(0, 2, depth).narrow(1, 64, 32).to(at::kDouble);
      const double greatest = rows.abs().max().item<double>();
      std::vector<int8_t> digits(static_cast<size_t>(StepsOf(depth) * kDigitStep * kDigits * 32));
      std::vector<float> scales(32);
      const uint8_t* first = m.compact.row(2) + 2 * BlockBytes(m.compact.form());
      table.Of(m.compact.form())
          .digits.panel(first, m.row_bytes(), depth, digits.data(), scales.data());
      for (int64_t j = 0; j < 32; ++j) {
        EXPECT_EQ(scales[static_cast<size_t>(j)], scales[0]);
        for (int64_t k = 0; k < StepsOf(depth) * kDigitStep; ++k) {
          double value = 0;
          for (int d = kDigits - 1; d >= 0; --d) {
            value = value / 256 + digits[PlaceInPanel(k, j, d, depth)];
          }
          const double expected = k < depth ? rows[k][j].item<double>() : 0;
          ASSERT_NEAR(value * static_cast<double>(scales[0]), expected,
                      greatest * (0.5 / kMostInteger) + std::abs(expected) * 0x1p-22)
              << k << " " << j;
        }
      }
    }
  });
}

struct Sizes {
  int64_t rows, depth, columns;
};
const std::vector<Sizes> kSizes = {{1, 1, 1},     {5, 49, 31},   {13, 7, 17},    {16, 192, 16},
                                   {33, 200, 32}, {65, 384, 20}, {40, 1000, 32}, {17, 193, 3}};

// x [rows, depth] times weight [depth, columns]; a few numbers are much greater than the others.
struct Problem {
  Problem(const KernelTable& table, const Sizes& s, uint64_t seed)
      : sizes(s),
        ldx(StepsOf(s.depth) * 192 + 64),
        x(Values(s.rows * s.depth, seed)),
        weight(Values(s.depth * s.columns, seed + 1)),
        x_digits(static_cast<size_t>((s.rows + 15) * ldx), 55),
        x_scales(static_cast<size_t>(s.rows * ChunksOf(s.depth))) {
    for (size_t i = 0; i < x.size(); i += 37) x[i] *= 30;
    for (size_t i = 0; i < weight.size(); i += 41) weight[i] *= 10;
    for (int64_t m = 0; m < s.rows; ++m) {
      table.slice_row(&x[static_cast<size_t>(m * s.depth)], s.depth,
                      &x_digits[static_cast<size_t>(m * ldx)],
                      &x_scales[static_cast<size_t>(m * ChunksOf(s.depth))]);
    }
    panel.emplace_back(table, weight, s.columns, s.depth, s.columns);
  }
  Int8x3Term term(int64_t first_row = 0) const {
    return {.x = x_digits.data() + first_row * ldx,
            .ldx = ldx,
            .x_scales = x_scales.data() + first_row * ChunksOf(sizes.depth),
            .ld_scales = ChunksOf(sizes.depth),
            .panel = panel[0].digits.data(),
            .panel_scales = panel[0].scales.data(),
            .depth = sizes.depth};
  }
  double X(int64_t m, int64_t k) const {
    return static_cast<double>(x[static_cast<size_t>(m * sizes.depth + k)]);
  }
  double Weight(int64_t k, int64_t n) const {
    return static_cast<double>(weight[static_cast<size_t>(k * sizes.columns + n)]);
  }
  // A sum, and the greatest error that it may have: of each number half an integer (and the
  // rounding of its scale), of each product d2 times d2, of each chunk the roundings of its four
  // sums.
  std::pair<double, double> Sum(int64_t m, int64_t n) const {
    double sum = 0, error = 0;
    for (int64_t c = 0; c < ChunksOf(sizes.depth); ++c) {
      const int64_t begin = c * kDigitChunk, end = begin + ChunkDepth(c, sizes.depth);
      double x_most = 0, weight_most = 0, x_sum = 0, weight_sum = 0, size = 0;
      for (int64_t k = begin; k < end; ++k) {
        const double a = X(m, k), b = Weight(k, n);
        sum += a * b;
        size += std::abs(a * b);
        x_most = std::max(x_most, std::abs(a));
        weight_most = std::max(weight_most, std::abs(b));
        x_sum += std::abs(a);
        weight_sum += std::abs(b);
      }
      error += (x_most * weight_sum + weight_most * x_sum) * (0.5 / kMostInteger);
      error += static_cast<double>(end - begin) * x_most * weight_most * 0x1p-32;
      error += (size + std::abs(sum)) * 8 * 0x1p-24;
    }
    return {sum, error};
  }

  Sizes sizes;
  int64_t ldx;
  std::vector<float> x, weight;
  std::vector<int8_t> x_digits;
  std::vector<float> x_scales;
  std::vector<SlicedPanel> panel;
};

std::vector<float> Multiply(const KernelTable& table, const std::vector<Int8x3Term>& terms,
                            const Sizes& s, GemmStore store) {
  std::vector<float> y(static_cast<size_t>(s.rows * s.columns + 1), 0.5f);
  table.gemm_int8x3({.terms = terms.data(),
                     .num_terms = static_cast<int64_t>(terms.size()),
                     .rows = s.rows,
                     .y = y.data(),
                     .ldy = s.columns,
                     .columns = s.columns,
                     .store = store});
  EXPECT_EQ(y.back(), 0.5f);
  y.pop_back();
  return y;
}

// A digit left out would be off by 2^-8 or 2^-16 of the greatest product.
TEST(KernelDigits, GemmIsAsExactAsTheDigitsAre) {
  ForEachTileTable([](const KernelTable& table) {
    for (const Sizes& s : kSizes) {
      const Problem one(table, s, 1), other(table, {s.rows, s.depth + 3, s.columns}, 5);
      for (const GemmStore store : {GemmStore::kSet, GemmStore::kAdd}) {
        const std::vector<float> y = Multiply(table, {one.term(), other.term()}, s, store);
        for (int64_t m = 0; m < s.rows; ++m) {
          for (int64_t n = 0; n < s.columns; ++n) {
            const auto [a, a_error] = one.Sum(m, n);
            const auto [b, b_error] = other.Sum(m, n);
            const double before = store == GemmStore::kAdd ? 0.5 : 0;
            ASSERT_NEAR(y[static_cast<size_t>(m * s.columns + n)], a + b + before,
                        a_error + b_error + (std::abs(a) + before) * 0x1p-22)
                << s.rows << " " << s.depth << " " << s.columns;
          }
        }
      }
    }
  });
}

TEST(KernelDigits, GemmIsAsExactAsOneInFp32OnAverage) {
  const Sizes s = {64, 576, 32};
  ForEachTileTable([&](const KernelTable& table) {
    const Problem problem(table, s, 7);
    const std::vector<float> y = Multiply(table, {problem.term()}, s, GemmStore::kSet);
    double mine = 0, in_fp32 = 0;
    for (int64_t m = 0; m < s.rows; ++m) {
      for (int64_t n = 0; n < s.columns; ++n) {
        const double exact = problem.Sum(m, n).first;
        float sum = 0;
        for (int64_t k = 0; k < s.depth; ++k) {
          sum = std::fma(static_cast<float>(problem.X(m, k)),
                         static_cast<float>(problem.Weight(k, n)), sum);
        }
        mine += std::pow(static_cast<double>(y[static_cast<size_t>(m * s.columns + n)]) - exact, 2);
        in_fp32 += std::pow(static_cast<double>(sum) - exact, 2);
      }
    }
    EXPECT_LT(mine, in_fp32);
  });
}

TEST(KernelDigits, ARowsBitsDoNotDependOnTheOthers) {
  ForEachTileTable([](const KernelTable& table) {
    const Problem all(table, {70, 260, 32}, 3);
    const std::vector<float> y = Multiply(table, {all.term()}, all.sizes, GemmStore::kSet);
    for (int64_t m = 0; m < 65; ++m) {
      for (const int64_t count : {1, 5}) {
        const std::vector<float> alone =
            Multiply(table, {all.term(m)}, {count, 260, 32}, GemmStore::kSet);
        EXPECT_EQ(std::memcmp(alone.data(), &y[static_cast<size_t>(m * 32)], alone.size() * 4), 0)
            << m;
      }
    }
  });
}

}  // namespace
}  // namespace evolora
