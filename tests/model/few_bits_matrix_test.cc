#include "few_bits_matrix.h"

#include <cmath>
#include <vector>

#include "ATen/ATen.h"
#include "c10/util/BFloat16.h"
#include "c10/util/Half.h"
#include "evolora/model/adapter_norm.h"
#include "evolora/model/compact_weights.h"
#include "evolora/model/engine.h"
#include "evolora/model/packed_matrix.h"
#include "gtest/gtest.h"
#include "model/kernel_tables.h"
#include "model/random_model.h"
#include "support/status_matchers.h"

namespace evolora {
namespace {

using testing::InFewBits;
using testing::kAllBlockForms;
using testing::RandomAdapter;
using testing::RandomDora;
using testing::RandomIds;
using testing::RandomWeights;
using testing::SmallConfig;
using testing::Stored;

at::Tensor Apply(const auto& matrix, const at::Tensor& x, int64_t out, bool add) {
  at::Tensor y = at::full({x.size(0), out}, 3.0f);
  const int64_t in = x.size(1);
  const auto run = [&](auto method) {
    (matrix.*method)(x.const_data_ptr<float>(), in, x.size(0), y.mutable_data_ptr<float>(), out);
  };
  using Matrix = std::decay_t<decltype(matrix)>;
  run(add ? &Matrix::ApplyAdd : &Matrix::Apply);
  return y;
}

// Columns that fill no panel, inputs that fill no block, a row of zeros and one of equal numbers.
TEST(FewBitsMatrix, IsThePackedMatrixOfTheWidenedWeightBitForBit) {
  at::manual_seed(3);
  at::Tensor weight = at::randn({52, 70});
  weight[2].zero_();
  weight[3].fill_(0.5f);
  for (const BlockForm form : kAllBlockForms) {
    SCOPED_TRACE(BlockFormName(form));
    const CompactMatrix compact = Stored(form, weight);
    const FewBitsMatrix few(compact);
    EXPECT_LE(few.bytes(), 2 * 64 * 70);
    const PackedMatrix packed({compact.Widen(0, 52)});
    for (const int64_t rows : {1, 2, 3, 4, 5, 7, 8, 9, 21}) {
      const at::Tensor x = at::randn({rows, 70});
      for (const bool add : {false, true}) {
        EXPECT_TRUE(at::equal(Apply(few, x, 52, add), Apply(packed, x, 52, add))) << rows;
      }
    }
  }
}

// Wide enough for products by parts, where there are such.
TEST(FewBitsMatrix, ToManyGivesWhatAPackedMatrixGives) {
  at::manual_seed(4);
  const at::Tensor weight = at::randn({170, 192}), x = at::randn({40, 192});
  for (const BlockForm form : kAllBlockForms) {
    SCOPED_TRACE(BlockFormName(form));
    const CompactMatrix compact = Stored(form, weight);
    at::Tensor y = at::zeros({40, 170}), expected = at::zeros({40, 170});
    for (const GemmStore store : {GemmStore::kSet, GemmStore::kAdd}) {
      FewBitsMatrix(compact).ApplyToMany(x.const_data_ptr<float>(), 192, 40,
                                         y.mutable_data_ptr<float>(), 170, store);
      PackedMatrix({compact.Widen(0, 170)})
          .ApplyToMany(x.const_data_ptr<float>(), 192, 40, expected.mutable_data_ptr<float>(), 170,
                       store);
      EXPECT_TRUE(at::equal(y, expected));
    }
  }
}

constexpr int64_t kDepth = 301;

// A panel of any bits, with what each of its weights stands for.
struct Panels {
  std::vector<uint8_t> bytes;
  std::vector<float> scales, lows;

  FewBitsPanel panel() const { return {bytes.data(), scales.data(), lows.data()}; }

  float Weight(BlockForm form, int64_t k, int64_t j) const {
    const auto place = static_cast<size_t>(k / 32 * 32 + j);
    const auto half_place = static_cast<size_t>(k / 16 * 32 + j);
    const uint16_t half = reinterpret_cast<const uint16_t*>(bytes.data())[k * 32 + j];
    const auto value =
        static_cast<float>(static_cast<int8_t>(bytes[static_cast<size_t>(k * 32 + j)]));
    if (form == BlockForm::kBf16) return c10::BFloat16(half, c10::BFloat16::from_bits());
    if (form == BlockForm::kF16) return c10::Half(half, c10::Half::from_bits());
    if (form == BlockForm::kInt8) return value * scales[place];
    if (form == BlockForm::kInt8Low) return lows[half_place] + value * scales[half_place];
    const uint8_t both = bytes[static_cast<size_t>(k * 16 + j % 16)];
    return lows[place] + scales[place] * static_cast<float>(j < 16 ? both & 15 : both >> 4);
  }
};

Panels MakePanels() {
  Panels panels;
  // As 16 bits: the high bytes are those of numbers of a moderate size, of either sign.
  for (int64_t i = 0; i < kDepth * 64; ++i) {
    const int64_t high = 0x3b + i * 37 % 8 + (i % 3 == 0 ? 0x80 : 0);
    panels.bytes.push_back(static_cast<uint8_t>(i % 2 == 0 ? i * 37 : high));
  }
  for (int i = 0; i < 640; ++i) {
    panels.scales.push_back(std::ldexp(static_cast<float>(i % 64 + 3), -9));
    panels.lows.push_back(std::ldexp(static_cast<float>(40 - i % 64), -7));
  }
  return panels;
}

// One block of rows, several, and more than one slice's.
TEST(FewBitsMatrix, KernelsGiveTheBitsOfProductsOverFp32Panels) {
  const Panels panels = MakePanels();
  std::vector<int64_t> counts = {64, 67, 130};
  for (int64_t count = 1; count <= 25; ++count) counts.push_back(count);
  const at::Tensor x = at::randn({130, kDepth});
  for (const BlockForm form : kAllBlockForms) {
    SCOPED_TRACE(BlockFormName(form));
    std::vector<float> wide;
    for (int64_t i = 0; i < kDepth * 32; ++i) {
      wide.push_back(panels.Weight(form, i / 32, i % 32));
    }
    testing::ForEachTable([&](const KernelTable& table) {
      for (const int64_t count : counts) {
        for (const GemmStore store : {GemmStore::kSet, GemmStore::kAdd}) {
          at::Tensor few = at::full({count, 29}, 2.0f), expected = few.clone();
          const GemmTerm term = {
              .x = x.const_data_ptr<float>(), .ldx = kDepth, .panel = wide.data(), .depth = kDepth};
          GemmArgs args = {.terms = &term,
                           .rows = count,
                           .y = few.mutable_data_ptr<float>(),
                           .ldy = 29,
                           .columns = 29,
                           .store = store};
          table.Of(form).gemm(args, panels.panel());
          args.y = expected.mutable_data_ptr<float>();
          table.gemm(args);
          EXPECT_TRUE(at::equal(few, expected)) << count;
        }
      }
    });
  }
}

std::vector<EngineRequest> Requests(const LlamaConfig& config,
                                    const std::vector<std::string>& adapters) {
  std::vector<EngineRequest> requests;
  for (size_t i = 0; i < adapters.size(); ++i) {
    requests.push_back({.prompt = RandomIds(config, 4 + static_cast<int64_t>(i) * 9, i),
                        .adapter = adapters[i],
                        .max_new_tokens = 20});
  }
  return requests;
}

void ExpectSame(Engine& ours, Engine& expected, const std::vector<std::string>& adapters) {
  const std::vector<EngineRequest> requests = Requests(ours.config(), adapters);
  ASSERT_OK_AND_ASSIGN(const auto a, ours.Generate(requests));
  ASSERT_OK_AND_ASSIGN(const auto b, expected.Generate(requests));
  for (size_t i = 0; i < requests.size(); ++i) {
    EXPECT_EQ(a[i].ids, b[i].ids);
    EXPECT_EQ(a[i].logprobs, b[i].logprobs);
  }
}

// Of a base in few bits, of the same numbers in fp32: with adapters that read the base's numbers,
// and with one that replaces its embedding and its head.
TEST(FewBitsMatrix, AnEngineOfABaseInFewBitsIsTheEngineOfItsNumbers) {
  for (const bool tied : {false, true}) {
    LlamaConfig config = SmallConfig();
    config.tied_head = tied;
    LoraAdapter saves = RandomAdapter(config, 5, 3, 2);
    for (const NamedShape& module : ReplaceableModules(config)) {
      const at::Tensor weight = at::randn(module.shape) * 0.3;
      const float* values = weight.const_data_ptr<float>();
      saves.saved_modules.push_back({module.name, module.shape, {values, values + weight.numel()}});
    }
    for (const BlockForm form : kAllBlockForms) {
      SCOPED_TRACE(BlockFormName(form));
      const auto few =
          std::make_shared<const LlamaWeights>(InFewBits(*RandomWeights(config, 7), form));
      const auto wide = std::make_shared<const LlamaWeights>(WidenedCopy(*few));
      ASSERT_OK_AND_ASSIGN(const auto ours, Engine::Create(few));
      ASSERT_OK_AND_ASSIGN(const auto expected, Engine::Create(wide));
      std::vector<std::string> adapters = {"", ""};
      for (const LoraAdapter& adapter :
           {RandomAdapter(config, 3, 5), RandomDora(config, 3, 6), saves}) {
        ASSERT_OK_AND_ASSIGN(const std::string digest, ours->LoadAdapter(adapter));
        ASSERT_OK_AND_ASSIGN(const std::string same, expected->LoadAdapter(adapter));
        EXPECT_EQ(same, digest);
        adapters.push_back(digest);
        EXPECT_EQ(MaxRelativeNorm(*few, adapter).value(), MaxRelativeNorm(*wide, adapter).value());
      }
      ExpectSame(*ours, *expected, adapters);
    }
  }
}

TEST(FewBitsMatrix, AnInt8EngineIsTheEngineOfTheRoundedBase) {
  const LlamaConfig config = SmallConfig();
  const auto weights = RandomWeights(config, 7);
  const auto few = [&](BlockForm form) {
    return std::make_shared<const LlamaWeights>(InFewBits(*weights, form));
  };
  for (const auto& base : {weights, few(BlockForm::kBf16), few(BlockForm::kF16)}) {
    const LlamaWeights wide = base->compact ? WidenedCopy(*base) : *base;
    LlamaWeights rounded = WidenedCopy(CompactCopy(wide, WeightStorage::kInt8));
    rounded.embedding = wide.embedding;  // whose rows are read as they are
    ASSERT_OK_AND_ASSIGN(const auto ours, Engine::Create(base, {.weights = WeightFormat::kInt8}));
    ASSERT_OK_AND_ASSIGN(const auto expected,
                         Engine::Create(std::make_shared<const LlamaWeights>(rounded)));
    ExpectSame(*ours, *expected, {"", "", "", "", ""});
  }
}

TEST(FewBitsMatrix, AnInt8EngineRoundsNoWeightOfFewerBits) {
  const auto weights = std::make_shared<const LlamaWeights>(
      CompactCopy(*RandomWeights(SmallConfig(), 7), WeightStorage::kQ4));
  ASSERT_OK_AND_ASSIGN(const auto int8, Engine::Create(weights, {.weights = WeightFormat::kInt8}));
  ASSERT_OK_AND_ASSIGN(const auto fp32, Engine::Create(weights));
  ExpectSame(*int8, *fp32, {"", ""});
}

}  // namespace
}  // namespace evolora
