// Gradients of every weight of a base, by hand against autograd.
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "ATen/ops/norm.h"
#include "absl/strings/str_cat.h"
#include "base_parameters.h"
#include "device/device_path.h"
#include "gradient_path.h"
#include "support/status_matchers.h"
#include "trainers/gradient_case.h"

namespace evolora {
namespace {

using ::evolora::testing::ArchitectureCases;
using ::evolora::testing::Case;
using ::evolora::testing::IsOk;
using ::evolora::testing::MakeCase;
using ::evolora::testing::PathFactory;
using ::evolora::testing::RandomRow;
using ::evolora::testing::RandomWeights;

constexpr double kTolerance = 1e-5;

struct FullGradient {
  double loss_sum = 0;
  BaseParameters parameters;
};

FullGradient GradientOfAll(const Case& c, const PathFactory& factory) {
  const LoraTensors no_adapter;
  BaseParameters parameters(*RandomWeights(c.config, 3));
  const absl::StatusOr<std::unique_ptr<Loss>> loss = MakeLoss(c.recipe.objective, c.rows);
  EXPECT_THAT(loss, IsOk());
  const std::unique_ptr<GradientPath> path = factory({.base = &parameters.weights(),
                                                      .lora = &no_adapter,
                                                      .recipe = &c.recipe,
                                                      .rows = c.rows,
                                                      .loss = loss->get()});
  std::vector<int64_t> indices(c.rows.size());
  std::iota(indices.begin(), indices.end(), 0);
  EXPECT_THAT((*loss)->Prepare(*path->frozen_pass(), indices, {}), IsOk());
  const absl::StatusOr<double> loss_sum = path->AddGradient(indices, 0.1);
  EXPECT_THAT(loss_sum, IsOk());
  return {loss_sum.value_or(0), std::move(parameters)};
}

// The device path, on the CPU.
std::unique_ptr<GradientPath> DevicePathOnHost(const GradientPathInputs& inputs) {
  return MakeDevicePath(inputs, {});
}
const std::pair<const char*, PathFactory> kPaths[] = {{"fast", MakeFastPath},
                                                      {"device", DevicePathOnHost}};

void ExpectAllGradientsEqual(const FullGradient& fast, const FullGradient& reference) {
  EXPECT_NEAR(fast.loss_sum, reference.loss_sum, kTolerance * std::abs(reference.loss_sum));
  const std::vector<NamedTensor> ours = NamedTensors(fast.parameters.weights());
  const std::vector<NamedTensor> theirs = NamedTensors(reference.parameters.weights());
  ASSERT_EQ(ours.size(), theirs.size());
  for (size_t i = 0; i < ours.size(); ++i) {
    const double norm = theirs[i].tensor.grad().norm().item<double>();
    const double error = ours[i].tensor.grad().sub(theirs[i].tensor.grad()).norm().item<double>();
    EXPECT_GT(norm, 0) << ours[i].name;
    EXPECT_LE(error, kTolerance * norm) << ours[i].name;
  }
}

void ExpectAllGradientsEqual(const Case& c) {
  const FullGradient reference = GradientOfAll(c, MakeReferencePath);
  for (const auto& [name, factory] : kPaths) {
    SCOPED_TRACE(absl::StrCat(c.name, ", ", name));
    ExpectAllGradientsEqual(GradientOfAll(c, factory), reference);
  }
}

Case Full(Case c) {
  c.recipe = LoraRecipe{.method = TrainingMethod::kFull,
                        .tokens_per_micro_batch = c.recipe.tokens_per_micro_batch,
                        .objective = c.recipe.objective};
  return c;
}

TEST(FullPath, GradientsOfEveryWeightOfEveryArchitecture) {
  for (const Case& c : ArchitectureCases()) {
    // A key's bias shifts all scores of a query alike: its gradient is rounding.
    if (c.config.qkv_bias && !c.config.qk_norm) continue;
    ExpectAllGradientsEqual(Full(c));
  }
}

TEST(FullPath, BiasesAreTrainedToo) {
  Case c = Full(MakeCase("biases", [](Case& change) {
    change.config.qkv_bias = true;
    change.config.output_bias = true;
  }));
  const FullGradient reference = GradientOfAll(c, MakeReferencePath);
  for (const auto& [name, factory] : kPaths) {
    SCOPED_TRACE(name);
    const FullGradient own = GradientOfAll(c, factory);
    for (size_t i = 0; i < own.parameters.weights().layers.size(); ++i) {
      const LlamaLayer& ours = own.parameters.weights().layers[i];
      const LlamaLayer& theirs = reference.parameters.weights().layers[i];
      for (const auto member : {&LlamaLayer::q_bias, &LlamaLayer::v_bias, &LlamaLayer::o_bias}) {
        const at::Tensor expected = (theirs.*member).grad();
        const double norm = expected.norm().item<double>();
        EXPECT_GT(norm, 0);
        EXPECT_LE((ours.*member).grad().sub(expected).norm().item<double>(), kTolerance * norm);
      }
      // A key's bias shifts all scores of a query alike, but for RoPE, which turns it.
      const at::Tensor keys = theirs.k_bias.grad();
      EXPECT_LE(ours.k_bias.grad().sub(keys).norm().item<double>(),
                kTolerance * theirs.q_bias.grad().norm().item<double>());
    }
  }
}

TEST(FullPath, SharedPrefixesAndMicroBatchesAddUp) {
  const auto prefixed = [](Case& c) {
    const std::vector<TokenId> prefix = {4, 9, 2, 11, 30, 7};
    for (const int64_t length : {9, 13, 8, 21, 40}) {
      c.rows.push_back(RandomRow(c.config, length, static_cast<uint64_t>(length), prefix));
    }
  };
  for (const int64_t tokens : {1, 25, 1000}) {
    Case c = Full(MakeCase(absl::StrCat(tokens, " tokens at once"), prefixed));
    c.recipe.tokens_per_micro_batch = tokens;
    ExpectAllGradientsEqual(c);
  }
}

// Logits of several chunks, products of more than one block of the depth.
TEST(FullPath, LargerThanOneTile) {
  ExpectAllGradientsEqual(Full(MakeCase("wide", [](Case& c) {
    c.config.hidden_size = 260;
    c.config.intermediate_size = 331;
    c.config.vocab_size = 517;
    c.config.tied_head = true;
    for (int64_t i = 0; i < 20; ++i) {
      c.rows.push_back(RandomRow(c.config, 90 + i, static_cast<uint64_t>(i)));
    }
    c.recipe.tokens_per_micro_batch = 2000;
  })));
}

}  // namespace
}  // namespace evolora
