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
#include "model/random_model.h"
#include "support/status_matchers.h"

namespace evolora {
namespace {

using Factory = std::unique_ptr<GradientPath> (*)(const GradientPathInputs&);

// A model, rows and a recipe whose gradients two paths compute.
struct Case {
  std::string name;
  LlamaConfig config = testing::SmallConfig();
  LoraRecipe recipe;
  std::vector<TrainingRow> rows;
};

TrainingRow RandomRow(const LlamaConfig& config, int64_t length, uint64_t seed,
                      const std::vector<TokenId>& prefix = {}) {
  TrainingRow row{.ids = prefix};
  const std::vector<TokenId> own =
      testing::RandomIds(config, length - static_cast<int64_t>(prefix.size()), seed);
  row.ids.insert(row.ids.end(), own.begin(), own.end());
  row.labels = row.ids;
  Random random(seed + 1);
  for (size_t t = 0; t + 1 < row.labels.size(); ++t) {
    if (random.NextBelow(2) == 0) row.labels[t] = kIgnoreLabel;
  }
  return row;
}

std::vector<TrainingRow> RandomRows(const LlamaConfig& config) {
  std::vector<TrainingRow> rows;
  for (const int64_t length : {9, 2, 17, 5, 70}) {
    rows.push_back(RandomRow(config, length, static_cast<uint64_t>(length)));
  }
  return rows;
}

Case MakeCase(
    std::string name, const std::function<void(Case&)>& change = [](Case&) {}) {
  Case c{.name = std::move(name)};
  c.recipe.rank = 4;
  c.recipe.alpha = 8;
  change(c);
  if (c.rows.empty()) c.rows = RandomRows(c.config);
  return c;
}

struct Gradient {
  double loss_sum = 0;
  AdapterParameters parameters;
};

// Loss and gradient of all rows, with A and B both random.
Gradient Compute(const Case& c, Factory factory, double factor = 0.1) {
  const std::shared_ptr<const LlamaWeights> base = testing::RandomWeights(c.config, 3);
  absl::StatusOr<AdapterParameters> parameters =
      AdapterParameters::Create(*base, c.recipe, /*init=*/nullptr);
  EXPECT_TRUE(parameters.ok()) << parameters.status();
  Random random(11);
  float* values = parameters->value.mutable_data_ptr<float>();
  for (int64_t i = 0; i < parameters->value.numel(); ++i) {
    values[i] = static_cast<float>(random.NextDouble() - 0.5) * 0.3f;
  }
  const std::unique_ptr<GradientPath> path = factory(
      {.base = base.get(), .lora = &parameters->lora(), .recipe = &c.recipe, .rows = c.rows});
  std::vector<int64_t> indices(c.rows.size());
  std::iota(indices.begin(), indices.end(), 0);
  const absl::StatusOr<double> loss = path->AddGradient(indices, factor);
  EXPECT_TRUE(loss.ok()) << loss.status();
  return {*loss, *std::move(parameters)};
}

// Relative to the norm of each parameter's gradient.
void ExpectSame(const Gradient& a, const Gradient& b, double tolerance = 1e-5) {
  EXPECT_NEAR(a.loss_sum, b.loss_sum, tolerance * b.loss_sum);
  for (const auto& [path, module] : a.parameters.lora().modules) {
    const LoraTensor& other = b.parameters.lora().modules.at(path);
    std::vector<std::pair<at::Tensor, at::Tensor>> gradients = {{module.a.grad(), other.a.grad()},
                                                                {module.b.grad(), other.b.grad()}};
    if (module.magnitude.defined()) {
      gradients.emplace_back(module.magnitude.grad(), other.magnitude.grad());
    }
    for (const auto& [mine, theirs] : gradients) {
      const double norm = theirs.norm().item<double>();
      EXPECT_GT(norm, 0) << path;
      EXPECT_LE(mine.sub(theirs).norm().item<double>(), tolerance * norm) << path;
    }
  }
}

void ExpectFastEqualsReference(const Case& c) {
  SCOPED_TRACE(c.name);
  ExpectSame(Compute(c, MakeFastPath), Compute(c, MakeReferencePath));
}

TEST(FastPath, EqualsAutogradOnEveryArchitecture) {
  const std::vector<Case> cases = {
      MakeCase("head_dim 10 of 24 / 6"),
      MakeCase("one key head", [](Case& c) { c.config.num_kv_heads = 1; }),
      MakeCase("as many key heads", [](Case& c) { c.config.num_kv_heads = 6; }),
      MakeCase("vocabulary 41, tied head",
               [](Case& c) {
                 c.config.vocab_size = 41;
                 c.config.tied_head = true;
               }),
      MakeCase("attention biases",
               [](Case& c) {
                 c.config.qkv_bias = true;
                 c.config.output_bias = true;
               }),
      MakeCase("norms of q and k", [](Case& c) { c.config.qk_norm = true; }),
      MakeCase("window 5 in every layer", [](Case& c) { c.config.sliding_window = 5; }),
      MakeCase("window 60 in one layer",
               [](Case& c) {
                 c.config.sliding_window = 60;
                 c.config.layer_uses_window = {false, true, false};
               }),
      MakeCase("llama3 RoPE",
               [](Case& c) {
                 c.config.rope_scaling = RopeScaling::kLlama3;
                 c.config.rope_factor = 8;
                 c.config.rope_original_positions = 64;
               }),
      MakeCase("one layer", [](Case& c) { c.config.num_layers = 1; }),
      MakeCase("head_dim 64, wide",
               [](Case& c) {
                 c.config.head_dim = 64;
                 c.config.hidden_size = 130;
                 c.config.intermediate_size = 97;
               }),
  };
  for (const Case& c : cases) ExpectFastEqualsReference(c);
}

TEST(FastPath, EqualsAutogradForEveryRankAndTargets) {
  std::vector<Case> cases;
  for (const int64_t rank : {1, 3, 16, 20}) {
    cases.push_back(MakeCase(absl::StrCat("rank ", rank), [&](Case& c) { c.recipe.rank = rank; }));
  }
  cases.push_back(MakeCase("rank 64", [](Case& c) {
    c.recipe.rank = 64;
    c.config.hidden_size = 80;
    c.config.intermediate_size = 70;
    c.config.num_kv_heads = 6;
    c.config.head_dim = 12;
  }));
  const std::vector<std::vector<std::string>> targets = {
      {"q_proj"},
      {"v_proj"},
      {"q_proj", "v_proj"},
      {"k_proj", "up_proj"},
      {"down_proj"},
      {"o_proj"},
      {"gate_proj", "self_attn.o_proj"},
      {"model.layers.1.mlp.down_proj"},
      {"model.layers.2.self_attn.o_proj"},
      {"model.layers.1.self_attn.k_proj", "model.layers.2.mlp.up_proj"},
      {"model.layers.2.mlp.down_proj"}};
  for (const std::vector<std::string>& names : targets) {
    cases.push_back(MakeCase(absl::StrCat(names.size(), " targets, ", names.front()),
                             [&](Case& c) { c.recipe.target_modules = names; }));
  }
  for (const Case& c : cases) ExpectFastEqualsReference(c);
}

// Rows with common prefixes of several depths, equal rows, and rows that begin others.
std::vector<TrainingRow> SharingRows(const LlamaConfig& config) {
  const std::vector<TokenId> system = testing::RandomIds(config, 20, 100);
  std::vector<TokenId> deeper = system;
  for (const TokenId id : testing::RandomIds(config, 60, 101)) deeper.push_back(id);
  std::vector<TrainingRow> rows;
  for (uint64_t i = 0; i < 3; ++i) rows.push_back(RandomRow(config, 26, 200 + i, system));
  for (uint64_t i = 0; i < 3; ++i) rows.push_back(RandomRow(config, 84, 300 + i, deeper));
  rows.push_back(rows[1]);                             // equal rows
  rows.push_back(RandomRow(config, 81, 400, deeper));  // a tail of one token
  rows.push_back(RandomRow(config, 80, 401, deeper));  // begins others
  rows.push_back(RandomRow(config, 20, 402, system));  // begins others
  rows.push_back(RandomRow(config, 12, 403));          // shares nothing
  return rows;
}

TEST(FastPath, EqualsAutogradWithMagnitudes) {
  std::vector<Case> cases = {
      MakeCase("all layers"),
      MakeCase("biases and norms of q and k",
               [](Case& c) {
                 c.config.qkv_bias = true;
                 c.config.output_bias = true;
                 c.config.qk_norm = true;
               }),
      MakeCase("rank 20, 131 wide",
               [](Case& c) {
                 c.recipe.rank = 20;
                 c.config.hidden_size = 131;
                 c.config.intermediate_size = 157;
               }),
      MakeCase("shared prefixes", [](Case& c) { c.rows = SharingRows(c.config); }),
  };
  for (const char* target : {"q_proj", "v_proj", "o_proj", "up_proj", "down_proj",
                             "model.layers.1.mlp.gate_proj", "model.layers.2.mlp.down_proj"}) {
    cases.push_back(MakeCase(target, [&](Case& c) { c.recipe.target_modules = {target}; }));
  }
  for (Case& c : cases) {
    c.recipe.use_dora = true;
    ExpectFastEqualsReference(c);
  }
}

TEST(FastPath, EqualsAutogradWithDropout) {
  std::vector<Case> cases = {
      MakeCase("all layers"),
      MakeCase("biases and norms of q and k",
               [](Case& c) {
                 c.config.qkv_bias = true;
                 c.config.output_bias = true;
                 c.config.qk_norm = true;
               }),
      MakeCase("rank 20, 131 wide",
               [](Case& c) {
                 c.recipe.rank = 20;
                 c.config.hidden_size = 131;
                 c.config.intermediate_size = 157;
               }),
      MakeCase("equal rows and prefixes", [](Case& c) { c.rows = SharingRows(c.config); }),
  };
  for (const char* target : {"q_proj", "v_proj", "o_proj", "up_proj", "down_proj",
                             "model.layers.1.mlp.gate_proj", "model.layers.2.mlp.down_proj"}) {
    cases.push_back(MakeCase(target, [&](Case& c) { c.recipe.target_modules = {target}; }));
  }
  for (Case& c : cases) {
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
    Case c = MakeCase(absl::StrCat("window ", window), [&](Case& change) {
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
