#include "evolora/model/products.h"

#include <memory>
#include <numeric>
#include <vector>

#include "ATen/ATen.h"
#include "ATen/Parallel.h"
#include "evolora/model/packed_matrix.h"
#include "fast_head.h"
#include "gtest/gtest.h"
#include "head_loss.h"
#include "model/random_model.h"

namespace evolora {
namespace {

struct Sizes {
  int64_t rows, depth, columns;
};

// More rows than a tile, more depth than a block, columns that fill no panel, and single ones.
const std::vector<Sizes> kSizes = {{1, 1, 1},      {5, 40, 32},   {24, 1600, 64}, {25, 3100, 48},
                                   {200, 1537, 7}, {130, 70, 97}, {13, 20, 16},   {50, 3000, 160}};

double Error(const at::Tensor& mine, const at::Tensor& expected) {
  return (mine - expected).norm().item<double>() / (expected.norm().item<double>() + 1e-30);
}

at::Tensor Sum(const std::vector<Product>& products, const Sizes& s, GemmStore store,
               Factors factors) {
  at::Tensor y = at::ones({s.rows, s.columns});
  SumOfProducts(products, s.rows, s.columns, y.mutable_data_ptr<float>(), s.columns, store,
                factors);
  return y;
}

// Both ways to multiply fp32 numbers.
class SumOfProductsBy : public ::testing::TestWithParam<Factors> {};
INSTANTIATE_TEST_SUITE_P(Fp32, SumOfProductsBy, ::testing::Values(Factors::kFp32, Factors::kInt8x3),
                         [](const auto& info) {
                           return info.param == Factors::kFp32 ? "Units" : "Digits";
                         });

// Two products over all rows; then, over some of them each, one that is deep and one that is not.
TEST_P(SumOfProductsBy, ARowHasTheBitsOfASumOverTheProductsThatItIsIn) {
  at::manual_seed(2);
  for (const Sizes& s : kSizes) {
    SCOPED_TRACE(::testing::Message() << s.rows << " " << s.depth << " " << s.columns);
    const int64_t deep = 1100, first = s.rows / 3, end = (2 * s.rows + 2) / 3;
    const at::Tensor left = at::randn({s.rows, s.depth}), right = at::randn({s.depth, s.columns});
    const at::Tensor own_left = at::randn({s.rows, deep}), own = at::randn({deep, s.columns});
    const auto product = [&](const at::Tensor& l, const at::Tensor& r, int64_t begin,
                             int64_t depth) {
      return Product{.left = l.const_data_ptr<float>() + begin * l.size(1),
                     .ldl = l.size(1),
                     .depth = depth,
                     .right = r.const_data_ptr<float>(),
                     .ldr = s.columns};
    };
    const auto of = [](Product p, int64_t begin, int64_t count) {
      p.first_row = begin;
      p.num_rows = count;
      return p;
    };
    const Product all = product(left, right, 0, s.depth);
    const at::Tensor together = Sum({all, all, of(product(own_left, own, 0, deep), 0, end),
                                     of(product(own_left, own, first, 7), first, s.rows - first)},
                                    s, GemmStore::kAdd, GetParam());
    for (int64_t m = 0; m < s.rows; ++m) {
      const Product base = product(left, right, m, s.depth);
      std::vector<Product> products = {base, base};
      if (m < end) products.push_back(of(product(own_left, own, m, deep), 0, 1));
      if (m >= first) products.push_back(of(product(own_left, own, m, 7), 0, 1));
      const at::Tensor alone = Sum(products, {1, s.depth, s.columns}, GemmStore::kAdd, GetParam());
      ASSERT_TRUE(alone[0].equal(together[m])) << m;
    }
    at::Tensor expected = 1 + 2 * at::mm(left, right);
    expected.narrow(0, 0, end) += at::mm(own_left.narrow(0, 0, end), own);
    expected.narrow(0, first, s.rows - first) +=
        at::mm(own_left.narrow(0, first, s.rows - first).narrow(1, 0, 7), own.narrow(0, 0, 7));
    EXPECT_LT(Error(together, expected), 2e-6);
  }
}

TEST_P(SumOfProductsBy, AddsToTheRowsOfItsProductsAlone) {
  at::manual_seed(3);
  for (const Sizes& s : kSizes) {
    SCOPED_TRACE(::testing::Message() << s.rows << " " << s.depth << " " << s.columns);
    const int64_t first = s.rows / 3, count = s.rows - first - s.rows / 4;
    const at::Tensor left = at::randn({count, s.depth}), right = at::randn({s.depth, s.columns});
    const Product product = {.left = left.const_data_ptr<float>(),
                             .ldl = s.depth,
                             .depth = s.depth,
                             .right = right.const_data_ptr<float>(),
                             .ldr = s.columns,
                             .first_row = first,
                             .num_rows = count};
    at::Tensor expected = at::ones({s.rows, s.columns});
    expected.narrow(0, first, count) += at::mm(left, right);
    const at::Tensor y = Sum({product}, s, GemmStore::kAdd, GetParam());
    EXPECT_LT(Error(y, expected), 2e-6);
    EXPECT_TRUE(y.narrow(0, 0, first).eq(1).all().item<bool>());
    EXPECT_TRUE(Sum({}, s, GemmStore::kAdd, GetParam()).eq(1).all().item<bool>());
  }
}

TEST_P(SumOfProductsBy, EqualsTheMatrixProductInEveryLayout) {
  at::manual_seed(1);
  for (const Sizes& s : kSizes) {
    SCOPED_TRACE(::testing::Message() << s.rows << " " << s.depth << " " << s.columns);
    const at::Tensor left = at::randn({s.rows, s.depth}), right = at::randn({s.depth, s.columns});
    const at::Tensor left_t = left.t().contiguous();
    const PackedMatrix packed({right.t().contiguous()});
    const at::Tensor expected = at::mm(left.to(at::kDouble), right.to(at::kDouble));
    const Product rows = {.left = left.const_data_ptr<float>(),
                          .ldl = s.depth,
                          .depth = s.depth,
                          .right = right.const_data_ptr<float>(),
                          .ldr = s.columns};
    Product panels = rows, transposed = rows;
    panels.right = packed.panels();
    panels.ldr = 0;
    transposed.left = left_t.const_data_ptr<float>();
    transposed.ldl = s.rows;
    transposed.transposed = true;
    Product stacked = rows;
    stacked.right = nullptr;
    stacked.ldr = 0;
    const at::Tensor right_t = right.t().contiguous();
    const float* weight = right_t.const_data_ptr<float>();
    const int64_t upper = s.columns / 3;
    const Product::Rows parts[] = {{weight, upper}, {weight + upper * s.depth, s.columns - upper}};
    stacked.weight_rows = parts;
    for (const Product& product : {rows, panels, transposed, stacked}) {
      EXPECT_LT(Error(Sum({product}, s, GemmStore::kSet, GetParam()), expected), 2e-6);
      EXPECT_LT(Error(Sum({product}, s, GemmStore::kAdd, GetParam()), expected + 1), 2e-6);
    }
    EXPECT_LT(Error(Sum({rows, panels, transposed, stacked}, s, GemmStore::kSet, GetParam()),
                    expected * 4),
              2e-6);
  }
}

TEST_P(SumOfProductsBy, WeightsInFewBitsGiveTheProductsOfTheirNumbers) {
  const int64_t rows = 37, out = 75, in = 101;
  for (const BlockForm form : testing::kAllBlockForms) {
    SCOPED_TRACE(BlockFormName(form));
    const CompactMatrix matrix = testing::Stored(form, at::randn({out, in}) + 1);
    const at::Tensor wide = matrix.Widen(0, out);
    for (const bool transposed : {true, false}) {
      const Sizes s = {rows, transposed ? in : out, transposed ? out : in};
      const at::Tensor left = at::randn({rows, s.depth});
      const Product product = {.left = left.const_data_ptr<float>(),
                               .ldl = s.depth,
                               .depth = s.depth,
                               .weight = &matrix,
                               .weight_transposed = transposed};
      const at::Tensor expected = at::mm(left, transposed ? wide.t() : wide);
      EXPECT_LT(Error(Sum({product}, s, GemmStore::kSet, GetParam()), expected), 2e-6);
    }
  }
}

TEST_P(SumOfProductsBy, RowsOutsideARangeAreSkipped) {
  const Sizes s = {60, 40, 64};
  const at::Tensor left = at::randn({s.rows, s.depth});
  at::Tensor right = at::randn({s.depth, s.columns});
  right.narrow(1, 0, 32).narrow(0, 0, 30).zero_();    // panel 0 has rows 30..39
  right.narrow(1, 32, 32).narrow(0, 12, 28).zero_();  // panel 1 has rows 0..11
  const PackedMatrix packed({right.t().contiguous()});
  const std::vector<DepthRange> ranges = {{30, 10}, {0, 12}};
  Product product = {.left = left.const_data_ptr<float>(),
                     .ldl = s.depth,
                     .depth = s.depth,
                     .right = packed.panels(),
                     .ranges = ranges.data()};
  EXPECT_LT(Error(Sum({product}, s, GemmStore::kAdd, GetParam()), at::mm(left, right) + 1), 1e-6);
}

// With left sides that are cut by rows, whose panels are taken in one group and in two.
TEST_P(SumOfProductsBy, ARowsBitsDependNeitherOnTheOtherRowsNorOnThreads) {
  for (const Sizes& s : {Sizes{210, 3100, 96}, Sizes{210, 1600, 288}}) {
    const at::Tensor left = at::randn({s.rows, s.depth}), right = at::randn({s.depth, s.columns});
    const Product product = {.left = left.const_data_ptr<float>(),
                             .ldl = s.depth,
                             .depth = s.depth,
                             .right = right.const_data_ptr<float>(),
                             .ldr = s.columns};
    const int threads = at::get_num_threads();
    at::set_num_threads(1);
    const at::Tensor all = Sum({product}, s, GemmStore::kSet, GetParam());
    for (const int n : {1, 2, 5}) {
      at::set_num_threads(n);
      for (const int64_t rows : {1, 24, 49, 210}) {
        const at::Tensor some =
            Sum({product}, {rows, s.depth, s.columns}, GemmStore::kSet, GetParam());
        EXPECT_TRUE(some.equal(all.narrow(0, 0, rows))) << n << " threads, " << rows << " rows";
      }
    }
    at::set_num_threads(threads);
  }
}

// In chunks of 16 rows and in one, against the loss of the reference path.
TEST(FastHead, EqualsTheReferenceLossWithTargetsThatShareARow) {
  const int64_t rows = 37, width = 20, vocabulary = 53;
  const at::Tensor hidden = at::randn({rows, width}), head = at::randn({vocabulary, width});
  TokenLayout layout;
  layout.predicting.resize(static_cast<size_t>(rows));
  std::iota(layout.predicting.begin(), layout.predicting.end(), 0);
  std::vector<int64_t> of_row, ids;
  for (int64_t m = 0; m < rows; ++m) {
    for (int64_t i = 0; i <= m % 3; ++i) {
      layout.targets.push_back({m, static_cast<TokenId>(m + 5 * i), 1 + i});
      for (int64_t times = 0; times <= i; ++times) {
        of_row.push_back(m);
        ids.push_back(m + 5 * i);
      }
    }
  }
  const at::Tensor index = at::tensor(of_row, at::kLong);
  const HeadLoss expected =
      ChunkedHeadLoss(hidden.index_select(0, index), head, at::tensor(ids, at::kLong), 0.5);
  const at::Tensor gradient = at::zeros({rows, width}).index_add(0, index, expected.grad_hidden);
  const std::unique_ptr<Loss> cross_entropy = MakeCrossEntropy({});
  for (const int64_t logits_per_chunk : {1, 1 << 20}) {
    FastHead fast(head, logits_per_chunk);
    at::Tensor d_hidden = at::empty({rows, width});
    const double loss = fast.LossAndGradient(layout, hidden.const_data_ptr<float>(), *cross_entropy,
                                             0.5, d_hidden.mutable_data_ptr<float>());
    EXPECT_NEAR(loss, expected.loss_sum, 1e-5 * expected.loss_sum);
    EXPECT_LT(Error(d_hidden, gradient), 1e-5);
  }
}

}  // namespace
}  // namespace evolora
