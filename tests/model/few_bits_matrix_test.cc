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

// Columns that fill no panel, inputs that fill no block (96 do), a row of zeros and one of equal
// numbers.
TEST(FewBitsMatrix, IsThePackedMatrixOfTheWidenedWeightBitForBit) {
  at::manual_seed(3);
  at::Tensor weight = at::randn({52, 70});
  weight[2].zero_();
  weight[3].fill_(0.5f);
  for (const BlockForm form : kAllBlockForms) {
    SCOPED_TRACE(BlockFormName(form));
    const CompactMatrix compact = Stored(form, weight);
    const FewBitsMatrix few(compact);
    EXPECT_LE(few.bytes(), 2 * 64 * 96);
    EXPECT_EQ(few.bytes(), FewBitsMatrix::BytesFor(form, 52, 70));
    const PackedMatrix packed({compact.Widen(0, 52)});
    for (const int64_t rows : {1, 2, 3, 4, 5, 7, 8, 9, 21}) {
      const at::Tensor x = at::randn({rows, 70});
      for (const bool add : {false, true}) {
        EXPECT_TRUE(at::equal(Apply(few, x, 52, add), Apply(packed, x, 52, add))) << rows;
      }
    }
  }
}

// Wide enough for products by digits, where there are such.
TEST(FewBitsMatrix, ToManyGivesWhatAPackedMatrixGives) {
  at::manual_seed(4);
  const at::Tensor weight = at::randn({270, 288}), x = at::randn({40, 288});
  for (const BlockForm form : kAllBlockForms) {
    SCOPED_TRACE(BlockFormName(form));
    const CompactMatrix compact = Stored(form, weight);
    at::Tensor y = at::zeros({40, 270}), expected = at::zeros({40, 270});
    for (const GemmStore store : {GemmStore::kSet, GemmStore::kAdd}) {
      FewBitsMatrix(compact).ApplyToMany(x.const_data_ptr<float>(), 288, 40,
                                         y.mutable_data_ptr<float>(), 270, store);
      PackedMatrix({compact.Widen(0, 270)})
          .ApplyToMany(x.const_data_ptr<float>(), 288, 40, expected.mutable_data_ptr<float>(), 270,
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
  // As 16 bits: the high bytes are those of numbers of a moderate size, of either sign. Whole
  // blocks.
  for (int64_t i = 0; i < (kDepth + 31) / 32 * 32 * 64; ++i) {
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

// x [rows, kDepth] as `table` splits it.
struct SplitX {
  SplitX(const KernelTable& table, const at::Tensor& x)
      : rows(x.size(0)),
        parts(static_cast<size_t>(kBf16Parts * (rows + 15) * kStride)),
        sums(static_cast<size_t>(rows * kBlocks)) {
    for (int64_t m = 0; m < rows; ++m) {
      const float* row = x.const_data_ptr<float>() + m * kDepth;
      table.split_bf16x3(row, kDepth, part(), &parts[static_cast<size_t>(m * kStride)]);
      table.sum_blocks(row, kDepth, &sums[static_cast<size_t>(m * kBlocks)]);
    }
  }
  // From row `first` on.
  SplitRows From(int64_t first) const {
    return {.parts = &parts[static_cast<size_t>(first * kStride)],
            .ld = kStride,
            .part = part(),
            .sums = &sums[static_cast<size_t>(first * kBlocks)],
            .depth = kDepth};
  }

 private:
  static constexpr int64_t kBlocks = (kDepth + 31) / 32, kStride = kBlocks * 32 + 32;
  int64_t part() const { return (rows + 15) * kStride; }
  int64_t rows;
  std::vector<uint16_t> parts;
  std::vector<float> sums;
};

// Panels of the same values, and of scales that are not.
constexpr int kNumPanels = 6;
std::vector<FewBitsPanel> ManyPanels(const Panels& panels) {
  std::vector<FewBitsPanel> many;
  for (int i = 0; i < kNumPanels; ++i) {
    many.push_back(panels.panel());
    many.back().scales += i;
    many.back().lows += 2 * i;
  }
  return many;
}

at::Tensor GemmSplit(const KernelTable& table, BlockForm form, const SplitRows& x, int64_t rows,
                     int64_t columns, GemmStore store) {
  static const Panels panels = MakePanels();
  at::Tensor y = at::full({rows, columns}, 2.0f);
  table.Of(form).gemm_split({.x = x,
                             .rows = rows,
                             .y = y.mutable_data_ptr<float>(),
                             .ldy = columns,
                             .columns = columns,
                             .store = store},
                            ManyPanels(panels).data());
  return y;
}

// The weights of ManyPanels [columns, kDepth], and the sizes of the terms that a kernel adds for
// them: of 4 bits a value less 8, and the low of a block with 8 scales.
struct SplitWeights {
  explicit SplitWeights(BlockForm form)
      : values(at::empty({kNumPanels * 32, kDepth}, at::kDouble)), sizes(values.clone()) {
    Panels panels = MakePanels();
    const bool has_lows = form == BlockForm::kQ4 || form == BlockForm::kQ4Float;
    for (int64_t n = 0; n < values.size(0); ++n) {
      if (n > 0 && n % 32 == 0) {
        panels.scales.erase(panels.scales.begin());
        panels.lows.erase(panels.lows.begin(), panels.lows.begin() + 2);
      }
      for (int64_t k = 0; k < kDepth; ++k) {
        const auto place = static_cast<size_t>(k / 32 * 32 + n % 32);
        const double weight = static_cast<double>(panels.Weight(form, k, n % 32));
        const double scales = 8 * static_cast<double>(panels.scales[place]);
        const double low = static_cast<double>(panels.lows[place]) + scales;
        values.mutable_data_ptr<double>()[n * kDepth + k] = weight;
        sizes.mutable_data_ptr<double>()[n * kDepth + k] =
            has_lows ? std::abs(low) + std::abs(weight - low) : std::abs(weight);
      }
    }
  }
  at::Tensor values, sizes;
};

// Against sums in float64, of all of x, and of single values: there a part left out would be off by
// 2^-17 of the only product.
TEST(FewBitsMatrix, KernelsForSplitRowsAreAsExactAsInFp32) {
  const at::Tensor all = at::randn({70, kDepth});
  at::Tensor single = at::zeros_like(all);
  for (int64_t m = 0; m < 70; ++m) single[m][(m * 37) % kDepth] = all[m][0];
  for (const BlockForm form : kAllBlockForms) {
    SCOPED_TRACE(BlockFormName(form));
    const SplitWeights weights(form);
    for (const auto& [x, additions] : {std::pair{all, 24}, std::pair{single, 5}}) {
      const at::Tensor exact = at::mm(x.to(at::kDouble), weights.values.t());
      const double unit = std::ldexp(additions, -24);
      const at::Tensor sizes = at::mm(x.to(at::kDouble).abs(), weights.sizes.t());
      testing::ForEachTileTable([&, x = x](const KernelTable& table) {
        if (table.Of(form).gemm_split == nullptr) return;
        const SplitX split(table, x);
        for (const auto& [rows, columns] : std::vector<std::pair<int64_t, int64_t>>{
                 {1, 5}, {7, 192}, {16, 32}, {17, 61}, {64, 32}, {70, 160}}) {
          for (const double before : {0.0, 2.0}) {  // of y
            const auto part = [rows = rows, columns = columns](const at::Tensor& t) {
              return t.slice(0, 0, rows).slice(1, 0, columns);
            };
            const at::Tensor y = GemmSplit(table, form, split.From(0), rows, columns,
                                           before > 0 ? GemmStore::kAdd : GemmStore::kSet);
            const at::Tensor off = (y - part(exact) - before).abs();
            EXPECT_TRUE((off <= unit * (part(sizes) + before)).all().item<bool>())
                << rows << " " << columns;
          }
        }
      });
    }
  }
}

TEST(FewBitsMatrix, SplitRowsBitsDependNeitherOnOtherRowsNorOnOtherPanels) {
  const at::Tensor x = at::randn({70, kDepth});
  for (const BlockForm form : kAllBlockForms) {
    SCOPED_TRACE(BlockFormName(form));
    testing::ForEachTileTable([&](const KernelTable& table) {
      if (table.Of(form).gemm_split == nullptr) return;
      const SplitX split(table, x);
      const at::Tensor all = GemmSplit(table, form, split.From(0), 70, 192, GemmStore::kSet);
      for (const int64_t first : {0, 1, 15, 40, 69}) {
        for (const int64_t columns : {32, 70, 192}) {
          const at::Tensor alone =
              GemmSplit(table, form, split.From(first), 1, columns, GemmStore::kSet);
          EXPECT_TRUE(at::equal(alone[0], all[first].slice(0, 0, columns))) << first;
        }
      }
    });
  }
}

TEST(FewBitsMatrix, ForManyRowsIsAsExactAndARowIsTheSameAlone) {
  at::manual_seed(6);
  const at::Tensor weight = at::randn({300, 1100}), x = at::randn({150, 1100});
  for (const BlockForm form : kAllBlockForms) {
    SCOPED_TRACE(BlockFormName(form));
    const CompactMatrix compact = Stored(form, weight);
    const FewBitsMatrix few(compact), many(compact, RowsOfSteps::kMany);
    if (Kernels().Of(form).gemm_split != nullptr) {
      at::Tensor y = at::empty({150, 300});
      many.ApplyToMany(x.const_data_ptr<float>(), 1100, 150, y.mutable_data_ptr<float>(), 300,
                       GemmStore::kSet);
      EXPECT_TRUE(at::equal(y, Apply(many, x, 300, false)));
    }
    for (const bool add : {false, true}) {
      const at::Tensor all = Apply(many, x, 300, add);
      EXPECT_TRUE(at::allclose(all, Apply(few, x, 300, add), 0, 2e-4));
      for (const int64_t m : {0, 17, 63, 64, 149}) {
        EXPECT_TRUE(at::equal(Apply(many, x.slice(0, m, m + 1), 300, add)[0], all[m])) << m;
      }
    }
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

TEST(FewBitsMatrix, AnEngineForManyRowsGivesARowTheSameBitsAlone) {
  const LlamaConfig config = SmallConfig();
  for (const BlockForm form : kAllBlockForms) {
    SCOPED_TRACE(BlockFormName(form));
    const auto weights =
        std::make_shared<const LlamaWeights>(InFewBits(*RandomWeights(config, 7), form));
    ASSERT_OK_AND_ASSIGN(const auto few, Engine::Create(weights));
    ASSERT_OK_AND_ASSIGN(const auto many,
                         Engine::Create(weights, {.rows_of_steps = RowsOfSteps::kMany}));
    const std::vector<EngineRequest> requests = Requests(config, {"", "", "", "", "", ""});
    ASSERT_OK_AND_ASSIGN(const auto together, many->Generate(requests));
    for (size_t i = 0; i < requests.size(); ++i) {
      ASSERT_OK_AND_ASSIGN(const auto alone, many->Generate({&requests[i], 1}));
      EXPECT_EQ(alone[0].ids, together[i].ids);
      EXPECT_EQ(alone[0].logprobs, together[i].logprobs);
      ASSERT_OK_AND_ASSIGN(const auto other, few->Generate({&requests[i], 1}));
      EXPECT_EQ(other[0].ids, together[i].ids);
      for (size_t t = 0; t < other[0].logprobs.size(); ++t) {
        EXPECT_NEAR(other[0].logprobs[t], together[i].logprobs[t], 1e-4);
      }
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
