#include <algorithm>
#include <functional>
#include <memory>
#include <numeric>
#include <string>
#include <vector>

#include "ATen/Parallel.h"
#include "ATen/ops/norm.h"
#include "absl/strings/str_cat.h"
#include "adapter_parameters.h"
#include "evolora/core/random.h"
#include "gradient_path.h"
#include "support/status_matchers.h"
#include "trainers/gradient_case.h"

namespace evolora {
namespace {

using ::evolora::testing::AdapterCases;
using ::evolora::testing::ArchitectureCases;
using ::evolora::testing::Case;
using ::evolora::testing::Compute;
using ::evolora::testing::ExpectFastEqualsReference;
using ::evolora::testing::ExpectSame;
using ::evolora::testing::Gradient;
using ::evolora::testing::MakeCase;
using ::evolora::testing::SavedModuleCases;
using ::evolora::testing::SharingRows;

TEST(FastPath, EqualsAutogradOnEveryArchitecture) {
  for (const Case& c : ArchitectureCases()) ExpectFastEqualsReference(c);
}

TEST(FastPath, EqualsAutogradForEveryRankAndTargets) {
  for (const Case& c : AdapterCases()) ExpectFastEqualsReference(c);
}

// What a variant of LoRA has to meet: biases and norms, odd widths, shared prefixes, every place.
std::vector<Case> VariantCases() {
  std::vector<Case> cases = {
      MakeCase("all layers"),
      MakeCase("biases and norms of q and k",
               [](Case& c) {
                 c.config.qkv_bias = true;
                 c.config.output_bias = true;
                 c.config.qk_norm = true;
               }),
      MakeCase("rank 20, 259 wide",
               [](Case& c) {
                 c.recipe.rank = 20;
                 c.config.hidden_size = 259;
                 c.config.intermediate_size = 277;
               }),
      MakeCase("equal rows and shared prefixes", [](Case& c) { c.rows = SharingRows(c.config); }),
  };
  for (const char* target : {"q_proj", "v_proj", "o_proj", "up_proj", "down_proj",
                             "model.layers.1.mlp.gate_proj", "model.layers.2.mlp.down_proj"}) {
    cases.push_back(MakeCase(target, [&](Case& c) { c.recipe.target_modules = {target}; }));
  }
  return cases;
}

TEST(FastPath, EqualsAutogradOnABaseInFewBits) {
  for (const WeightStorage storage :
       {WeightStorage::kBf16, WeightStorage::kInt8, WeightStorage::kQ4}) {
    const std::string name = WeightStorageName(storage);
    std::vector<Case> cases = {
        MakeCase(name),
        MakeCase(name + ", tied head, biases, norms of q and k",
                 [](Case& c) {
                   c.config.tied_head = true;
                   c.config.qkv_bias = true;
                   c.config.output_bias = true;
                   c.config.qk_norm = true;
                 }),
        MakeCase(name + ", 259 wide, MLP of 1,700",
                 [](Case& c) {
                   c.config.hidden_size = 259;
                   c.config.intermediate_size = 1700;
                 }),
        MakeCase(name + ", vocabulary 1,601", [](Case& c) { c.config.vocab_size = 1601; }),
        MakeCase(name + ", shared prefixes", [](Case& c) { c.rows = SharingRows(c.config); }),
        MakeCase(name + ", dropout", [](Case& c) { c.recipe.lora_dropout = 0.2; }),
        MakeCase(name + ", two targets", [](Case& c) {
          c.recipe.target_modules = {"k_proj", "up_proj"};
        })};
    for (Case& c : cases) {
      c.recipe.base_weights = storage;
      ExpectFastEqualsReference(c);
    }
  }
}

TEST(FastPath, EqualsAutogradForModulesTrainedAsAWhole) {
  for (Case& c : SavedModuleCases()) {
    ExpectFastEqualsReference(c);
    c.rows = SharingRows(c.config);
    ExpectFastEqualsReference(c);
  }
  Case compact = MakeCase("beside a base in few bits");
  compact.recipe.modules_to_save = {"lm_head", "model.norm"};
  compact.recipe.base_weights = WeightStorage::kInt8;
  ExpectFastEqualsReference(compact);
  compact.recipe.modules_to_save = {"embed_tokens"};
  ExpectFastEqualsReference(compact);
}

TEST(FastPath, EqualsAutogradWithMagnitudes) {
  for (Case& c : VariantCases()) {
    c.recipe.use_dora = true;
    ExpectFastEqualsReference(c);
  }
}

TEST(FastPath, EqualsAutogradWithDropout) {
  for (Case& c : VariantCases()) {
    c.recipe.lora_dropout = 0.4;
    c.recipe.seed = 3;
    ExpectFastEqualsReference(c);
  }
}

TEST(FastPath, DropoutDoesNotDependOnMicroBatches) {
  Case c = MakeCase("dropout", [](Case& change) {
    change.rows = SharingRows(change.config);
    change.recipe.lora_dropout = 0.2;
  });
  c.recipe.tokens_per_micro_batch = 10000;
  const Gradient whole = Compute(c, MakeFastPath);
  for (const int64_t tokens : {1, 90, 200}) {
    SCOPED_TRACE(tokens);
    c.recipe.tokens_per_micro_batch = tokens;
    ExpectSame(Compute(c, MakeFastPath), whole);
    ExpectSame(Compute(c, MakeReferencePath), whole);
  }
}

// With B = 0 nothing behind an adapter feels its mask, so that B's gradient is linear in it.
TEST(FastPath, TheMeanGradientOverManyStepsOfDropoutIsThatWithout) {
  Case c = MakeCase("expectation");
  c.rows.pop_back();  // the long one
  const std::shared_ptr<const LlamaWeights> base = testing::RandomWeights(c.config, 3);
  const auto mean_gradient = [&](int64_t steps) {
    absl::StatusOr<AdapterParameters> parameters =
        AdapterParameters::Create(*base, c.recipe, /*init=*/nullptr);
    EXPECT_TRUE(parameters.ok()) << parameters.status();
    const std::unique_ptr<GradientPath> path = MakeFastPath(
        {.base = base.get(), .lora = &parameters->lora(), .recipe = &c.recipe, .rows = c.rows});
    for (int64_t step = 0; step < steps; ++step) {
      path->set_step(step);
      EXPECT_TRUE(path->AddGradient({0, 1, 2, 3}, 1.0 / static_cast<double>(steps)).ok());
    }
    return parameters->gradient.clone();
  };
  const at::Tensor without = mean_gradient(1);
  c.recipe.lora_dropout = 0.3;
  const double norm = without.norm().item<double>();
  EXPECT_GT(mean_gradient(1).sub(without).norm().item<double>(), 0.2 * norm);
  EXPECT_LT(mean_gradient(600).sub(without).norm().item<double>(), 0.05 * norm);
}

TEST(FastPath, SharedPrefixesGiveTheLossAndGradientOfTheRowsAlone) {
  for (const int64_t window : {0, 30}) {
    for (const int64_t head_dim : {6, 8, 10}) {  // attention has a way of its own for up to 8
      const std::string name = absl::StrCat("window ", window, ", heads of ", head_dim);
      SCOPED_TRACE(name);
      Case c = MakeCase(name, [&](Case& change) {
        change.config.head_dim = head_dim;
        change.config.sliding_window = window;
        change.config.qk_norm = true;
        change.rows = SharingRows(change.config);
      });
      c.recipe.tokens_per_micro_batch = 10000;
      ExpectFastEqualsReference(c);
      Case alone = c;
      alone.recipe.tokens_per_micro_batch = 1;
      ExpectSame(Compute(c, MakeFastPath), Compute(alone, MakeFastPath));
    }
  }
}

TEST(FastPath, MicroBatchesOfAnySizeGiveTheSameStep) {
  Case c =
      MakeCase("micro-batches", [](Case& change) { change.rows = SharingRows(change.config); });
  c.recipe.tokens_per_micro_batch = 10000;
  const Gradient whole = Compute(c, MakeFastPath);
  for (const int64_t tokens : {30, 90, 200}) {
    SCOPED_TRACE(tokens);
    c.recipe.tokens_per_micro_batch = tokens;
    ExpectSame(Compute(c, MakeFastPath), whole);
  }
}

// Loss of row `i` alone out of a batch: the other rows have no label of weight.
double LossOfRow(Case c, size_t i) {
  for (size_t j = 0; j < c.rows.size(); ++j) {
    if (j == i) continue;
    std::fill(c.rows[j].labels.begin(), c.rows[j].labels.end(), kIgnoreLabel);
  }
  return Compute(c, MakeFastPath).loss_sum;
}

TEST(FastPath, ARowsLossDoesNotDependOnTheOtherRows) {
  Case c = MakeCase("leak", [](Case& change) { change.rows = SharingRows(change.config); });
  c.recipe.tokens_per_micro_batch = 10000;
  for (const size_t i : {size_t{0}, size_t{4}, size_t{7}, size_t{10}}) {
    SCOPED_TRACE(i);
    const double before = LossOfRow(c, i);
    Case changed = c;
    for (size_t j = 0; j < c.rows.size(); ++j) {
      if (j == i) continue;
      // Another tail, and for every second row another beginning.
      for (size_t t = j % 2 == 0 ? 0 : 21; t < c.rows[j].ids.size(); ++t) {
        changed.rows[j].ids[t] = (c.rows[j].ids[t] + 1) % 37;
      }
    }
    EXPECT_NEAR(LossOfRow(changed, i), before, 1e-6 * before);
    // A causal model: what follows the last labelled token does not matter either.
    Case longer = c;
    longer.rows[i].ids.insert(longer.rows[i].ids.end(), {1, 2, 3});
    longer.rows[i].labels.insert(longer.rows[i].labels.end(), 3, kIgnoreLabel);
    EXPECT_NEAR(LossOfRow(longer, i), before, 1e-6 * before);
  }
}

TEST(FastPath, TheBitsAreTheSameOnEveryRunAndForAnyNumberOfThreads) {
  Case c = MakeCase("bits", [](Case& change) { change.rows = SharingRows(change.config); });
  c.recipe.use_dora = true;
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const Gradient one = Compute(c, MakeFastPath);
  for (const int n : {1, 2, 3}) {
    at::set_num_threads(n);
    const Gradient other = Compute(c, MakeFastPath);
    EXPECT_EQ(other.loss_sum, one.loss_sum);
    EXPECT_TRUE(other.parameters.gradient.equal(one.parameters.gradient)) << n << " threads";
  }
  at::set_num_threads(threads);
}

TEST(FastPath, BuffersOfALargerStepDoNotColourASmallerOne) {
  Case c = MakeCase("reuse");
  const std::shared_ptr<const LlamaWeights> base = testing::RandomWeights(c.config, 3);
  ASSERT_OK_AND_ASSIGN(AdapterParameters parameters,
                       AdapterParameters::Create(*base, c.recipe, nullptr));
  const std::unique_ptr<GradientPath> path = MakeFastPath(
      {.base = base.get(), .lora = &parameters.lora(), .recipe = &c.recipe, .rows = c.rows});
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
