#include "evolora/model/compact_matrix.h"

#include <cmath>
#include <string>
#include <vector>

#include "ATen/ATen.h"
#include "evolora/model/compact_weights.h"
#include "gtest/gtest.h"
#include "model/kernel_tables.h"
#include "model/random_model.h"

namespace evolora {
namespace {

using ::evolora::testing::kAllBlockForms;
using ::evolora::testing::RandomWeights;
using ::evolora::testing::SmallConfig;
using ::evolora::testing::Stored;

constexpr WeightStorage kCompact[] = {WeightStorage::kBf16, WeightStorage::kInt8,
                                      WeightStorage::kQ4};

at::Tensor Rounded(BlockForm form, const at::Tensor& weight) {
  return Stored(form, weight).Widen(0, weight.size(0));
}

TEST(WeightStorage, NamesComeBackAndOthersDoNot) {
  for (const WeightStorage storage :
       {WeightStorage::kFp32, WeightStorage::kBf16, WeightStorage::kInt8, WeightStorage::kQ4}) {
    WeightStorage back = WeightStorage::kFp32;
    EXPECT_TRUE(ParseWeightStorage(WeightStorageName(storage), back));
    EXPECT_EQ(back, storage);
  }
  WeightStorage other = WeightStorage::kQ4;
  EXPECT_FALSE(ParseWeightStorage("nf4", other));
  EXPECT_FALSE(ParseWeightStorage(WeightStorageName(WeightStorage::kExact), other));
  EXPECT_EQ(other, WeightStorage::kQ4);
}

TEST(CompactMatrix, RoundsToBf16AsLibTorch) {
  const at::Tensor weight = at::randn({5, 70});
  EXPECT_TRUE(
      at::equal(Rounded(BlockForm::kBf16, weight), weight.to(at::kBFloat16).to(at::kFloat)));
}

TEST(CompactMatrix, EightBitsStayWithinHalfAStepOfEachBlocksScale) {
  at::Tensor weight = at::randn({5, 70});
  weight[2].zero_();
  const at::Tensor rounded = Rounded(BlockForm::kInt8, weight);
  for (int64_t row = 0; row < 5; ++row) {
    for (int64_t begin = 0; begin < 70; begin += 32) {
      const at::Tensor block = weight[row].slice(0, begin, begin + 32);
      const double step = block.abs().max().item<double>() / 127;
      const at::Tensor error = (rounded[row].slice(0, begin, begin + 32) - block).abs();
      EXPECT_LE(error.max().item<double>(), step / 2 * 1.0001);
    }
  }
  EXPECT_EQ(rounded[2].abs().max().item<float>(), 0);
}

TEST(CompactMatrix, FourBitsStayWithinHalfAStepOfEachBlocksRange) {
  at::Tensor weight = at::randn({5, 70}) + 0.3;
  weight[2].zero_();
  const at::Tensor rounded = Rounded(BlockForm::kQ4, weight);
  for (int64_t row = 0; row < 5; ++row) {
    for (int64_t begin = 0; begin < 70; begin += 32) {
      const at::Tensor block = weight[row].slice(0, begin, begin + 32);
      const double range = (block.max() - block.min()).item<double>();
      const at::Tensor error = (rounded[row].slice(0, begin, begin + 32) - block).abs();
      // Half a step, and what fp16 loses of the low end and of 15 steps.
      const double half_digit = std::ldexp(block.abs().max().item<double>() + range, -11);
      EXPECT_LE(error.max().item<double>(), range / 30 * 1.0001 + half_digit);
    }
  }
  EXPECT_EQ(rounded[2].abs().max().item<float>(), 0);
}

TEST(CompactMatrix, FourBitWeightsComeBackAsTheyWere) {
  for (const double size : {1e-3, 0.02, 300.0}) {
    const at::Tensor once = Rounded(BlockForm::kQ4, at::randn({9, 96}) * size);
    EXPECT_TRUE(at::equal(Rounded(BlockForm::kQ4, once), once)) << size;
  }
}

TEST(CompactMatrix, PanelsAreThoseOfTheWidenedWeight) {
  const at::Tensor weight = at::randn({75, 101});
  for (const BlockForm form : kAllBlockForms) {
    SCOPED_TRACE(BlockFormName(form));
    const CompactMatrix matrix = Stored(form, weight);
    const at::Tensor wide = matrix.Widen(0, 75);
    EXPECT_TRUE(at::equal(matrix.Widen(7, 3), wide.narrow(0, 7, 3)));
    for (const int64_t first_out : {0, 32, 64}) {
      const int64_t have = std::min<int64_t>(32, 75 - first_out);
      at::Tensor panel = at::full({69, 32}, 5.0f);
      matrix.WidenTransposed(32, 69, first_out, panel.mutable_data_ptr<float>());
      EXPECT_TRUE(at::equal(panel.narrow(1, 0, have),
                            wide.narrow(0, first_out, have).narrow(1, 32, 69).t()));
      EXPECT_EQ(panel.narrow(1, have, 32 - have).abs().sum().item<float>(), 0);
    }
    for (const int64_t first_in : {0, 64, 96}) {
      const int64_t have = std::min<int64_t>(32, 101 - first_in);
      at::Tensor panel = at::full({40, 32}, 5.0f);
      matrix.WidenPanel(11, 40, first_in, panel.mutable_data_ptr<float>());
      EXPECT_TRUE(
          at::equal(panel.narrow(1, 0, have), wide.narrow(0, 11, 40).narrow(1, first_in, have)));
      EXPECT_TRUE(at::isfinite(panel).all().item<bool>());
    }
  }
}

// Blocks of one row each.
TEST(CompactMatrix, EveryKernelTableWidensToTheSameBits) {
  const at::Tensor weight = at::randn({33, 32}) * 0.1;
  for (const BlockForm form : kAllBlockForms) {
    SCOPED_TRACE(BlockFormName(form));
    const CompactMatrix matrix = Stored(form, weight);
    const at::Tensor expected = matrix.Widen(0, 33);
    EXPECT_LT((expected - weight).abs().max().item<double>(), 0.03);
    testing::ForEachTable([&](const KernelTable& table) {
      at::Tensor out = at::empty({33, 32});
      table.Of(form).widen(matrix.data(), matrix.bytes() / 33, 33, out.mutable_data_ptr<float>());
      EXPECT_TRUE(at::equal(out, expected));
    });
  }
}

TEST(CompactWeights, ACopyHoldsEveryMatrixRoundedAndTheRestAsItIs) {
  for (const bool tied : {false, true}) {
    LlamaConfig config = SmallConfig();
    config.tied_head = tied;
    config.qkv_bias = true;
    const auto weights = RandomWeights(config, 3);
    for (const WeightStorage storage : kCompact) {
      SCOPED_TRACE(WeightStorageName(storage));
      const LlamaWeights compact = CompactCopy(*weights, storage);
      EXPECT_FALSE(compact.layers[0].q.defined());
      const LlamaWeights wide = WidenedCopy(compact);
      const std::vector<NamedTensor> before = NamedTensors(*weights), after = NamedTensors(wide);
      ASSERT_EQ(before.size(), after.size());
      int64_t bytes = 0;
      for (size_t i = 0; i < before.size(); ++i) {
        SCOPED_TRACE(before[i].name);
        const bool is_matrix = before[i].tensor.dim() == 2;
        const bool vocabulary = before[i].tensor.size(0) == config.vocab_size;
        const BlockForm own =
            vocabulary && storage == WeightStorage::kQ4 ? BlockForm::kInt8 : FormOf(storage);
        EXPECT_TRUE(at::equal(after[i].tensor,
                              is_matrix ? Rounded(own, before[i].tensor) : before[i].tensor));
        if (!is_matrix) continue;
        bytes += CompactBytes(own, before[i].tensor.size(0), before[i].tensor.size(1));
      }
      EXPECT_EQ(CompactBytes(config, storage), bytes);
      EXPECT_EQ(wide.head.is_same(wide.embedding), tied);
    }
  }
}

// What computes with a layer by its name reads blocks and fp32 tensors alike.
TEST(CompactWeights, EveryTensorIsFoundByItsName) {
  for (const bool tied : {false, true}) {
    LlamaConfig config = SmallConfig();
    config.tied_head = tied;
    const LlamaWeights compact = CompactCopy(*RandomWeights(config, 3), WeightStorage::kInt8);
    const LlamaWeights wide = WidenedCopy(compact);
    for (const std::string& path : LinearModulePaths(config)) {
      EXPECT_TRUE(at::equal(FindLinear(compact, path), FindLinear(wide, path))) << path;
    }
    EXPECT_FALSE(FindLinear(compact, "model.layers.99.mlp.up_proj").defined());
    const auto widen = [&](const char* name) {
      return WidenCompact(config, name, *compact.compact);
    };
    EXPECT_TRUE(at::equal(widen("model.embed_tokens.weight"), wide.embedding));
    EXPECT_FALSE(widen("model.norm.weight").defined());
    EXPECT_EQ(widen("lm_head.weight").defined(), !tied);
  }
}

}  // namespace
}  // namespace evolora
