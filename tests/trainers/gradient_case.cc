#include "trainers/gradient_case.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "ATen/ops/norm.h"
#include "absl/strings/str_cat.h"
#include "evolora/core/random.h"
#include "evolora/model/compact_weights.h"
#include "support/status_matchers.h"

namespace evolora::testing {
namespace {

AdapterParameters RandomParameters(const Case& c, const LlamaWeights& base) {
  absl::StatusOr<AdapterParameters> parameters =
      AdapterParameters::Create(base, c.recipe, /*init=*/nullptr);
  EXPECT_THAT(parameters, IsOk());
  Random random(11);
  float* values = parameters->value.mutable_data_ptr<float>();
  for (int64_t i = 0; i < parameters->value.numel(); ++i) {
    values[i] = static_cast<float>(random.NextDouble() - 0.5) * 0.3f;
  }
  return *std::move(parameters);
}

std::string TensorDifference(const at::Tensor& actual, const at::Tensor& expected,
                             double tolerance) {
  const double norm = expected.norm().item<double>();
  const double error = actual.sub(expected).norm().item<double>();
  if (norm > 0 && error <= tolerance * norm) return "";
  return absl::StrCat("off by ", error, " of ", norm);
}

std::string FigureDifference(const Gradient& actual, const Gradient& expected, double tolerance) {
  if (!(std::abs(actual.loss_sum - expected.loss_sum) <= tolerance * std::abs(expected.loss_sum))) {
    return absl::StrCat("loss ", actual.loss_sum, " instead of ", expected.loss_sum);
  }
  if (actual.figures.size() != expected.figures.size()) return "number of figures";
  for (const auto& [name, value] : expected.figures) {
    const auto found = actual.figures.find(name);
    if (found == actual.figures.end()) return absl::StrCat("no figure ", name);
    if (std::abs(found->second - value) <= tolerance * std::max(1.0, std::abs(value))) continue;
    return absl::StrCat(name, " ", found->second, " instead of ", value);
  }
  return "";
}

}  // namespace

TrainingRow RandomRow(const LlamaConfig& config, int64_t length, uint64_t seed,
                      const std::vector<TokenId>& prefix) {
  TrainingRow row{.ids = prefix};
  const std::vector<TokenId> own =
      RandomIds(config, length - static_cast<int64_t>(prefix.size()), seed);
  row.ids.insert(row.ids.end(), own.begin(), own.end());
  row.labels = row.ids;
  Random random(seed + 1);
  for (size_t t = 0; t + 1 < row.labels.size(); ++t) {
    if (random.NextBelow(2) == 0) row.labels[t] = kIgnoreLabel;
  }
  return row;
}

Case MakeCase(std::string name, const CaseChange& change) {
  Case c{.name = std::move(name)};
  c.recipe.rank = 4;
  c.recipe.alpha = 8;
  change(c);
  if (!c.rows.empty()) return c;
  for (const int64_t length : {9, 2, 17, 5, 70}) {
    c.rows.push_back(RandomRow(c.config, length, static_cast<uint64_t>(length)));
  }
  return c;
}

std::vector<TrainingRow> SharingRows(const LlamaConfig& config) {
  const std::vector<TokenId> system = RandomIds(config, 20, 100);
  std::vector<TokenId> deeper = system;
  for (const TokenId id : RandomIds(config, 60, 101)) deeper.push_back(id);
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

std::vector<Case> ArchitectureCases() {
  return {
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
      MakeCase("head_dim 8", [](Case& c) { c.config.head_dim = 8; }),
      MakeCase("head_dim 6, one key head",
               [](Case& c) {
                 c.config.head_dim = 6;
                 c.config.num_kv_heads = 1;
               }),
      MakeCase("head_dim 64, odd widths",
               [](Case& c) {
                 c.config.head_dim = 64;
                 c.config.hidden_size = 130;
                 c.config.intermediate_size = 97;
               }),
      MakeCase("head_dim 64, whole accesses",
               [](Case& c) {
                 c.config.head_dim = 64;
                 c.config.hidden_size = 128;
                 c.config.intermediate_size = 96;
                 c.config.vocab_size = 64;
                 c.config.qk_norm = true;
               }),
  };
}

std::vector<Case> AdapterCases() {
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
  cases.push_back(MakeCase("ranks and scales by pattern", [](Case& c) {
    c.recipe.rank_pattern = {{"k_proj", 2}, {"up_proj", 7}};
    c.recipe.alpha_pattern = {{"v_proj", 3}, {"gate_proj", 1}};
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
  return cases;
}

std::vector<Case> SavedModuleCases() {
  const std::vector<std::vector<std::string>> lists = {
      {"lm_head"},
      {"embed_tokens"},
      {"model.norm"},
      {"embed_tokens", "lm_head", "norm"},
      {"layers.1.post_attention_layernorm"},
      {"layers.1.input_layernorm"},
      {"layers.0.input_layernorm", "layers.2.post_attention_layernorm"},
      {"q_norm"},
      {"layers.2.self_attn.k_norm"}};
  std::vector<Case> cases;
  for (const std::vector<std::string>& names : lists) {
    for (const bool one_target : {false, true}) {
      cases.push_back(MakeCase(names.front(), [&](Case& c) {
        c.config.qk_norm = true;
        c.config.tied_head = one_target;
        c.recipe.modules_to_save = names;
        if (one_target) c.recipe.target_modules = {"model.layers.2.mlp.down_proj"};
      }));
      if (one_target) cases.back().name += " beside one adapter";
    }
  }
  return cases;
}

Gradient Compute(const Case& c, const PathFactory& factory, double factor, c10::Device device) {
  std::shared_ptr<const LlamaWeights> base = RandomWeights(c.config, 3);
  if (c.recipe.base_weights != WeightStorage::kFp32) {
    base = std::make_shared<const LlamaWeights>(CompactCopy(*base, c.recipe.base_weights));
  }
  AdapterParameters parameters = RandomParameters(c, *base);
  parameters.MoveTo(device);
  const absl::StatusOr<std::unique_ptr<Loss>> loss = MakeLoss(c.recipe.objective, c.rows);
  EXPECT_THAT(loss, IsOk());
  const std::unique_ptr<GradientPath> path = factory({.base = base.get(),
                                                      .lora = &parameters.lora(),
                                                      .recipe = &c.recipe,
                                                      .rows = c.rows,
                                                      .loss = loss->get()});
  std::vector<int64_t> indices(c.rows.size());
  std::iota(indices.begin(), indices.end(), 0);
  if (path->frozen_pass() != nullptr) {
    EXPECT_THAT((*loss)->Prepare(*path->frozen_pass(), indices, {}), IsOk());
  }
  const absl::StatusOr<double> loss_sum = path->AddGradient(indices, factor);
  EXPECT_THAT(loss_sum, IsOk());
  parameters.MoveTo(c10::kCPU);
  return {loss_sum.value_or(0), (*loss)->TakeFigures(), std::move(parameters)};
}

std::string Difference(const Gradient& actual, const Gradient& expected, double tolerance) {
  const std::string figures = FigureDifference(actual, expected, tolerance);
  if (!figures.empty()) return figures;
  for (const auto& [path, module] : expected.parameters.lora().modules) {
    const LoraTensor& own = actual.parameters.lora().modules.at(path);
    std::vector<std::pair<at::Tensor, at::Tensor>> pairs = {{own.a, module.a}, {own.b, module.b}};
    if (module.magnitude.defined()) pairs.emplace_back(own.magnitude, module.magnitude);
    for (const auto& [mine, theirs] : pairs) {
      const std::string difference = TensorDifference(mine.grad(), theirs.grad(), tolerance);
      if (!difference.empty()) return absl::StrCat(path, ": ", difference);
    }
  }
  for (const auto& [path, weight] : expected.parameters.lora().saved) {
    const at::Tensor& own = actual.parameters.lora().saved.at(path);
    const std::string difference = TensorDifference(own.grad(), weight.grad(), tolerance);
    if (!difference.empty()) return absl::StrCat(path, ": ", difference);
  }
  return "";
}

void ExpectSame(const Gradient& actual, const Gradient& expected, double tolerance) {
  EXPECT_EQ(Difference(actual, expected, tolerance), "");
}

void ExpectFastEqualsReference(const Case& c) {
  SCOPED_TRACE(c.name);
  ExpectSame(Compute(c, MakeFastPath), Compute(c, MakeReferencePath));
}

}  // namespace evolora::testing
