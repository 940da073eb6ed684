#include "device/device_path.h"

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"
#include "support/status_matchers.h"
#include "trainers/device_cases.h"

namespace evolora {
namespace {

using testing::AdapterCases;
using testing::ArchitectureCases;
using testing::Case;
using testing::DeviceGradient;
using testing::Difference;
using testing::FewCases;
using testing::Gradient;
using testing::ObjectiveCases;
using testing::ReferenceGradient;

TEST(DevicePath, OnTheCpuEqualsAutogradOnEveryArchitecture) {
  for (const Case& c : ArchitectureCases()) {
    EXPECT_EQ(Difference(DeviceGradient(c, {}), ReferenceGradient(c), 1e-5), "") << c.name;
  }
}

TEST(DevicePath, OnTheCpuEqualsAutogradForEveryRankAndTargets) {
  for (const Case& c : AdapterCases()) {
    EXPECT_EQ(Difference(DeviceGradient(c, {}), ReferenceGradient(c), 1e-5), "") << c.name;
  }
}

TEST(DevicePath, OnTheCpuEqualsAutogradWithMagnitudes) {
  for (Case& c : FewCases()) {
    c.recipe.use_dora = true;
    EXPECT_EQ(Difference(DeviceGradient(c, {}), ReferenceGradient(c), 1e-5), "") << c.name;
  }
}

TEST(DevicePath, OnTheCpuEqualsAutogradWithDropout) {
  for (Case& c : FewCases()) {
    c.recipe.lora_dropout = 0.4;
    c.recipe.seed = 3;
    c.recipe.tokens_per_micro_batch = 80;
    c.rows.push_back(c.rows[2]);  // another copy draws for itself
    EXPECT_EQ(Difference(DeviceGradient(c, {}), ReferenceGradient(c), 1e-5), "") << c.name;
  }
}

TEST(DevicePath, OnTheCpuEqualsAutogradForModulesTrainedAsAWhole) {
  for (const Case& c : testing::SavedModuleCases()) {
    const Gradient expected = ReferenceGradient(c);
    EXPECT_EQ(Difference(DeviceGradient(c, {}), expected, 1e-5), "") << c.name;
    EXPECT_EQ(Difference(DeviceGradient(c, {.limits = {.logits_per_chunk = 1}, .graphs = true}),
                         expected, 1e-5),
              "")
        << c.name << ", padded";
  }
}

TEST(DevicePath, OnTheCpuEqualsAutogradForEveryObjective) {
  for (Case& c : ObjectiveCases()) {
    const Gradient expected = ReferenceGradient(c);
    for (const int64_t tokens : {60, 10000}) {
      c.recipe.tokens_per_micro_batch = tokens;
      const std::string name = absl::StrCat(c.name, ", ", tokens);
      EXPECT_EQ(Difference(DeviceGradient(c, {}), expected, 1e-5), "") << name;
      EXPECT_EQ(Difference(DeviceGradient(c, {.limits = {.logits_per_chunk = 1}}), expected, 1e-5),
                "")
          << name;
      EXPECT_EQ(Difference(DeviceGradient(c, {.graphs = true}), expected, 1e-5), "") << name;
    }
  }
}

// Cases of what few bits change: widths, a tied head, biases, shared rows, saved modules.
std::vector<Case> CompactCases() {
  std::vector<Case> cases;
  for (const WeightStorage storage :
       {WeightStorage::kBf16, WeightStorage::kInt8, WeightStorage::kQ4}) {
    const auto add = [&](const char* name, const testing::CaseChange& change) {
      cases.push_back(
          testing::MakeCase(absl::StrCat(WeightStorageName(storage), ", ", name), change));
      cases.back().recipe.base_weights = storage;
    };
    add("plain", [](Case&) {});
    add("tied head, biases", [](Case& c) {
      c.config.tied_head = c.config.qkv_bias = c.config.output_bias = c.config.qk_norm = true;
      c.rows = testing::SharingRows(c.config);
    });
    add("131 wide", [](Case& c) { c.config.hidden_size = 131; });
    add("whole blocks", [](Case& c) {
      c.config.hidden_size = 128;
      c.config.intermediate_size = 96;
    });
    add("dropout", [](Case& c) { c.recipe.lora_dropout = 0.2; });
    add("saved head", [](Case& c) { c.recipe.modules_to_save = {"lm_head", "norm"}; });
    add("saved embedding", [](Case& c) { c.recipe.modules_to_save = {"embed_tokens"}; });
  }
  return cases;
}

TEST(DevicePath, OnTheCpuEqualsAutogradOnABaseInFewBits) {
  for (const Case& c : CompactCases()) {
    const Gradient expected = ReferenceGradient(c);
    EXPECT_EQ(Difference(DeviceGradient(c, {}), expected, 1e-5), "") << c.name;
    const DevicePathOptions parts = {.limits = {.logits_per_chunk = 1, .widened_at_once = 200},
                                     .graphs = true};
    EXPECT_EQ(Difference(DeviceGradient(c, parts), expected, 1e-5), "") << c.name << ", in parts";
  }
}

TEST(DevicePath, OnTheCpuEqualsAutogradForEveryObjectiveOnABaseInFewBits) {
  for (Case& c : ObjectiveCases()) {
    c.recipe.base_weights = WeightStorage::kQ4;
    const Gradient expected = ReferenceGradient(c);
    EXPECT_EQ(Difference(DeviceGradient(c, {}), expected, 1e-5), "") << c.name;
    EXPECT_EQ(Difference(DeviceGradient(c, {.limits = {.widened_at_once = 200}}), expected, 1e-5),
              "")
        << c.name << ", in parts";
  }
}

TEST(DevicePath, InBfloat16ABaseInFewBitsStaysNearItsFp32Gradient) {
  for (const Case& c : CompactCases()) {
    const Gradient gradient = DeviceGradient(c, {.dtype = at::kBFloat16});
    EXPECT_EQ(Difference(gradient, ReferenceGradient(c), 0.1), "") << c.name;
  }
}

// A base of bf16 is the fp32 one as the math of bf16 rounds it.
TEST(DevicePath, InBfloat16ABaseOfBf16IsTheOneOfFp32) {
  Case c = testing::MakeCase("bf16");
  const Gradient of_fp32 = DeviceGradient(c, {.dtype = at::kBFloat16});
  c.recipe.base_weights = WeightStorage::kBf16;
  const Gradient of_bf16 = DeviceGradient(c, {.dtype = at::kBFloat16});
  EXPECT_EQ(of_bf16.loss_sum, of_fp32.loss_sum);
  EXPECT_TRUE(of_bf16.parameters.gradient.equal(of_fp32.parameters.gradient));
}

// bf16 keeps 8 bits: the gradient of a step in it points where that of fp32 does.
TEST(DevicePath, InBfloat16StaysNearTheFp32Gradient) {
  std::vector<Case> cases = ArchitectureCases();
  for (const Case& c : cases) {
    const Gradient expected = ReferenceGradient(c);
    for (const bool padded : {false, true}) {
      const Gradient gradient = DeviceGradient(c, {.dtype = at::kBFloat16, .graphs = padded});
      EXPECT_EQ(Difference(gradient, expected, 0.05), "") << c.name << (padded ? ", padded" : "");
    }
  }
}

// Whose gradients are differences of larger sums.
TEST(DevicePath, InBfloat16ObjectivesStayNearTheirFp32Gradients) {
  for (const Case& c : testing::ObjectiveCases()) {
    const Gradient expected = ReferenceGradient(c);
    for (const bool padded : {false, true}) {
      const Gradient gradient = DeviceGradient(c, {.dtype = at::kBFloat16, .graphs = padded});
      EXPECT_EQ(Difference(gradient, expected, 0.1), "") << c.name << (padded ? ", padded" : "");
    }
  }
}

TEST(DevicePath, MicroBatchesAndChunksOfTheHeadOfAnySizeGiveTheSameStep) {
  Case c = ArchitectureCases().front();
  c.recipe.tokens_per_micro_batch = 10000;
  const Gradient whole = DeviceGradient(c, {});
  for (const int64_t tokens : {1, 12, 80}) {
    c.recipe.tokens_per_micro_batch = tokens;
    EXPECT_EQ(Difference(DeviceGradient(c, {}), whole, 1e-5), "") << tokens;
    EXPECT_EQ(Difference(DeviceGradient(c, {.limits = {.logits_per_chunk = 1}}), whole, 1e-5), "")
        << tokens;
  }
}

TEST(DevicePath, TheBitsAreTheSameOnEveryRun) {
  const Case c = ArchitectureCases().front();
  const Gradient one = DeviceGradient(c, {}), other = DeviceGradient(c, {});
  EXPECT_EQ(one.loss_sum, other.loss_sum);
  EXPECT_TRUE(one.parameters.gradient.equal(other.parameters.gradient));
}

TEST(DevicePath, BuffersOfALargerStepDoNotColourASmallerOne) {
  const Case c = ArchitectureCases().front();
  const std::shared_ptr<const LlamaWeights> base = testing::RandomWeights(c.config, 3);
  ASSERT_OK_AND_ASSIGN(AdapterParameters parameters,
                       AdapterParameters::Create(*base, c.recipe, nullptr));
  const std::unique_ptr<GradientPath> path = MakeDevicePath(
      {.base = base.get(), .lora = &parameters.lora(), .recipe = &c.recipe, .rows = c.rows}, {});
  ASSERT_OK_AND_ASSIGN(const double first, path->AddGradient({1, 3}, 1));
  const at::Tensor gradient = parameters.gradient.clone();
  ASSERT_OK_AND_ASSIGN(const double large, path->AddGradient({0, 1, 2, 3, 4}, 1));
  EXPECT_GT(large, first);
  parameters.gradient.zero_();
  ASSERT_OK_AND_ASSIGN(const double again, path->AddGradient({1, 3}, 1));
  EXPECT_EQ(again, first);
  EXPECT_TRUE(parameters.gradient.equal(gradient));
}

}  // namespace
}  // namespace evolora
