#include "evolora/model/packed_matrix.h"

#include "ATen/ATen.h"
#include "ATen/Parallel.h"
#include "gtest/gtest.h"

namespace evolora {
namespace {

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
