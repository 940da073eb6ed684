#pragma once

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "ATen/ops/norm.h"
#include "adapter_parameters.h"
#include "evolora/core/random.h"
#include "gradient_path.h"
#include "model/random_model.h"
#include "support/status_matchers.h"

namespace evolora::testing {

using Factory = std::unique_ptr<GradientPath> (*)(const GradientPathInputs&);

// A model, rows and a recipe whose gradients two paths compute.
struct Case {
  std::string name;
  LlamaConfig config = SmallConfig();
  LoraRecipe recipe;
  std::vector<TrainingRow> rows;
};

// Begins with `prefix`; about half of the ids are labelled, the last one always.
inline TrainingRow RandomRow(const LlamaConfig& config, int64_t length, uint64_t seed,
                             const std::vector<TokenId>& prefix = {}) {
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

inline std::vector<TrainingRow> RandomRows(const LlamaConfig& config) {
  std::vector<TrainingRow> rows;
  for (const int64_t length : {9, 2, 17, 5, 70}) {
    rows.push_back(RandomRow(config, length, static_cast<uint64_t>(length)));
  }
  return rows;
}

inline Case MakeCase(
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
  std::map<std::string, double> figures;
  AdapterParameters parameters;
};

// Loss and gradient of all rows, with A and B both random.
inline Gradient Compute(const Case& c, Factory factory, double factor = 0.1) {
  const std::shared_ptr<const LlamaWeights> base = RandomWeights(c.config, 3);
  absl::StatusOr<AdapterParameters> parameters =
      AdapterParameters::Create(*base, c.recipe, /*init=*/nullptr);
  EXPECT_TRUE(parameters.ok()) << parameters.status();
  Random random(11);
  float* values = parameters->value.mutable_data_ptr<float>();
  for (int64_t i = 0; i < parameters->value.numel(); ++i) {
    values[i] = static_cast<float>(random.NextDouble() - 0.5) * 0.3f;
  }
  const absl::StatusOr<std::unique_ptr<Loss>> loss_of = MakeLoss(c.recipe.objective, c.rows);
  EXPECT_TRUE(loss_of.ok()) << loss_of.status();
  const std::unique_ptr<GradientPath> path = factory({.base = base.get(),
                                                      .lora = &parameters->lora(),
                                                      .recipe = &c.recipe,
                                                      .rows = c.rows,
                                                      .loss = loss_of->get()});
  std::vector<int64_t> indices(c.rows.size());
  std::iota(indices.begin(), indices.end(), 0);
  EXPECT_THAT((*loss_of)->Prepare(*path->frozen_pass(), indices, {}), IsOk());
  const absl::StatusOr<double> loss = path->AddGradient(indices, factor);
  EXPECT_TRUE(loss.ok()) << loss.status();
  return {*loss, (*loss_of)->TakeFigures(), *std::move(parameters)};
}

// Relative to the norm of each parameter's gradient.
inline void ExpectSame(const Gradient& a, const Gradient& b, double tolerance = 1e-5) {
  EXPECT_NEAR(a.loss_sum, b.loss_sum, tolerance * std::abs(b.loss_sum));
  EXPECT_EQ(a.figures.size(), b.figures.size());
  for (const auto& [name, value] : a.figures) {
    EXPECT_NEAR(value, b.figures.at(name), tolerance * std::max(1.0, std::abs(value))) << name;
  }
  for (const auto& [path, module] : a.parameters.lora().modules) {
    const LoraTensor& other = b.parameters.lora().modules.at(path);
    for (const auto& [mine, theirs] :
         {std::pair(module.a.grad(), other.a.grad()), std::pair(module.b.grad(), other.b.grad())}) {
      const double norm = theirs.norm().item<double>();
      EXPECT_GT(norm, 0) << path;
      EXPECT_LE(mine.sub(theirs).norm().item<double>(), tolerance * norm) << path;
    }
  }
}

inline void ExpectFastEqualsReference(const Case& c) {
  SCOPED_TRACE(c.name);
  ExpectSame(Compute(c, MakeFastPath), Compute(c, MakeReferencePath));
}

}  // namespace evolora::testing
