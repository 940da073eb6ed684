// Matrices in few bits on a device; the CPU stands in for it.
#include "device/device_matrix.h"

#include <memory>
#include <vector>

#include "ATen/ATen.h"
#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace evolora {
namespace {

CompactMatrix RandomCompact(BlockForm form, int64_t out, int64_t in) {
  at::manual_seed(static_cast<uint64_t>(out * 1000 + in));
  at::Tensor values = at::randn({out, in}).mul(at::rand({out, 1}).mul(3));
  values.select(0, 0).zero_();
  CompactMatrix matrix(form, out, in);
  matrix.StoreRows(0, out, values.const_data_ptr<float>());
  return matrix;
}

std::vector<CompactMatrix> Matrices() {
  std::vector<CompactMatrix> matrices;
  for (const BlockForm form : {BlockForm::kBf16, BlockForm::kInt8, BlockForm::kQ4}) {
    for (const auto& [out, in] : std::vector<std::pair<int64_t, int64_t>>{
             {1, 1}, {3, 31}, {5, 32}, {7, 33}, {40, 64}, {33, 100}, {6, 1000}}) {
      matrices.push_back(RandomCompact(form, out, in));
    }
  }
  return matrices;
}

std::string NameOf(const CompactMatrix& m) {
  return absl::StrCat(BlockFormName(m.form()), " ", m.out_features(), " x ", m.in_features());
}

TEST(DeviceMatrix, WidensToTheBitsOfTheHost) {
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    const DeviceMath math(at::kCPU, dtype);
    const auto wide = std::make_shared<WideBuffer>();
    for (const CompactMatrix& m : Matrices()) {
      const DeviceMatrix matrix(math, m, wide);
      const at::Tensor expected = m.Widen(0, m.out_features()).to(dtype);
      EXPECT_EQ(matrix.out_features(), m.out_features());
      EXPECT_EQ(matrix.in_features(), m.in_features());
      EXPECT_TRUE(matrix.Wide().equal(expected)) << NameOf(m);
      const int64_t half = m.out_features() / 2;
      EXPECT_TRUE(matrix.Rows(half, m.out_features() - half)
                      .equal(expected.narrow(0, half, m.out_features() - half)))
          << NameOf(m);
      const at::Tensor ids = at::arange(m.out_features() - 1, -1, -2, at::kInt);
      EXPECT_TRUE(matrix.Lookup(ids).equal(expected.index_select(0, ids))) << NameOf(m);
    }
  }
}

TEST(DeviceMatrix, ProductsInPartsAreThoseOfTheWhole) {
  const DeviceMath math(at::kCPU, at::kFloat);
  for (const int64_t values : {1, 100, 250, 1 << 20}) {
    const auto wide = std::make_shared<WideBuffer>();
    wide->values_at_once = values;
    for (const CompactMatrix& m : Matrices()) {
      const DeviceMatrix matrix(math, m, wide);
      const at::Tensor whole = m.Widen(0, m.out_features());
      const at::Tensor x = at::randn({4, m.in_features()});
      const at::Tensor dy = at::randn({4, m.out_features()});
      const at::Tensor y = at::empty_like(dy), dx = at::empty_like(x);
      matrix.Outputs(x, y);
      matrix.Inputs(dy, dx);
      EXPECT_TRUE(y.allclose(at::mm(x, whole.t()), 1e-5, 1e-4)) << NameOf(m) << ", " << values;
      EXPECT_TRUE(dx.allclose(at::mm(dy, whole), 1e-5, 1e-4)) << NameOf(m) << ", " << values;
    }
  }
}

TEST(DeviceMatrix, ADenseOneIsUsedWhereItLies) {
  const at::Tensor dense = at::randn({5, 3});
  const DeviceMatrix matrix(dense);
  EXPECT_EQ(matrix.Wide().const_data_ptr(), dense.const_data_ptr());
  EXPECT_TRUE(matrix.Lookup(at::arange(2, 4, at::kInt)).equal(dense.narrow(0, 2, 2)));
}

// A recorded graph holds the address.
TEST(DeviceMatrix, OneBufferOfTheLargestServesAll) {
  const DeviceMath math(at::kCPU, at::kFloat);
  const auto wide = std::make_shared<WideBuffer>();
  const DeviceMatrix large(math, RandomCompact(BlockForm::kQ4, 50, 64), wide);
  const DeviceMatrix small(math, RandomCompact(BlockForm::kInt8, 20, 40), wide);
  const void* const place = large.Wide().const_data_ptr();
  EXPECT_EQ(small.Wide().const_data_ptr(), place);
  EXPECT_EQ(large.Wide().const_data_ptr(), place);
}

}  // namespace
}  // namespace evolora
