#pragma once

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "evolora/adapters/peft.h"
#include "evolora/core/json.h"
#include "evolora/trainers/lora_trainer.h"
#include "support/status_matchers.h"
#include "support/temp_dir.h"

// Whole runs against the reference runs below tests/golden.
namespace evolora::testing {

// A formula that differs in its last fp32 digits stays below a tenth of this; a wrong
// normalisation, order, schedule or clipping is far above.
inline constexpr double kLossTolerance = 1e-5;  // relative, at every step
inline constexpr double kSmallLoss = 0.1;  // where labels of either sign cancel: at least to this
inline constexpr double kGradNormTolerance = 1e-5;  // relative, at every step
inline constexpr double kWeightCosine = 0.99999;    // of each matrix after the last step
inline constexpr double kChangeCosine = 0.99999;    // of each matrix less its start

inline std::string GoldenPath(const std::string& name) {
  return SourcePath("tests/golden/" + name);
}

inline Json ReadJson(const std::string& path) {
  const auto text = PosixFileSystem().ReadFile(path, 1 << 20);
  EXPECT_TRUE(text.ok()) << text.status();
  const auto json = ParseJson(*text);
  EXPECT_TRUE(json.ok()) << path << ": " << json.status();
  return *json;
}

inline LoraAdapter ReadAdapter(const std::string& name) {
  const auto peft = ReadPeftFolder(PosixFileSystem(), GoldenPath(name));
  EXPECT_TRUE(peft.ok()) << peft.status();
  return peft->adapter;
}

// The job of a recipe on a model, by default that of tests/golden/training. `init`: folder of the
// adapter to start from, or null.
inline TrainingJob MakeGoldenJob(const Json& recipe, const std::string& rows_file, const Json& init,
                                 const std::string& model = "training/model") {
  const auto base = LoadBase(PosixFileSystem(), GoldenPath(model));
  EXPECT_TRUE(base.ok()) << base.status();
  const auto parsed = RecipeFromJson(recipe);
  EXPECT_TRUE(parsed.ok()) << parsed.status();
  const auto data = PosixFileSystem().ReadFile(GoldenPath(rows_file), 1 << 20);
  EXPECT_TRUE(data.ok()) << data.status();
  const auto rows = ParseTrainingRows(*data, *base, parsed->objective.kind);
  EXPECT_TRUE(rows.ok()) << rows.status();
  TrainingJob job{.base = base->weights,
                  .base_name = "model",
                  .base_weights_fingerprint = base->weights_fingerprint,
                  .rows = *rows,
                  .recipe = *parsed};
  if (!init.is_null()) job.init = ReadAdapter(init);
  return job;
}

template <typename T>
double Cosine(const std::vector<T>& x, const std::vector<T>& y, const std::vector<T>& origin) {
  double xy = 0, xx = 0, yy = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double dx = static_cast<double>(x[i]) - static_cast<double>(origin[i]);
    const double dy = static_cast<double>(y[i]) - static_cast<double>(origin[i]);
    xy += dx * dy;
    xx += dx * dx;
    yy += dy * dy;
  }
  return xy / std::sqrt(xx * yy);
}

inline void ExpectSameMatrix(const std::vector<float>& ours, const std::vector<float>& peft,
                             const std::vector<float>& start) {
  ASSERT_EQ(ours.size(), peft.size());
  EXPECT_GT(Cosine(ours, peft, std::vector<float>(ours.size())), kWeightCosine);
  EXPECT_GT(Cosine(ours, peft, start), kChangeCosine);
}

inline void ExpectSameAdapter(const LoraAdapter& ours, const LoraAdapter& peft,
                              const LoraAdapter& start) {
  ASSERT_EQ(ours.modules.size(), peft.modules.size());
  for (size_t i = 0; i < peft.modules.size(); ++i) {
    SCOPED_TRACE(peft.modules[i].path);
    EXPECT_EQ(ours.modules[i].path, peft.modules[i].path);
    EXPECT_DOUBLE_EQ(ours.modules[i].scale, peft.modules[i].scale);
    ExpectSameMatrix(ours.modules[i].a, peft.modules[i].a, start.modules[i].a);
    ExpectSameMatrix(ours.modules[i].b, peft.modules[i].b, start.modules[i].b);
    ASSERT_EQ(ours.modules[i].magnitude.empty(), peft.modules[i].magnitude.empty());
    if (peft.modules[i].magnitude.empty()) continue;
    ExpectSameMatrix(ours.modules[i].magnitude, peft.modules[i].magnitude,
                     start.modules[i].magnitude);
  }
  ASSERT_EQ(ours.saved_modules.size(), peft.saved_modules.size());
  for (size_t i = 0; i < peft.saved_modules.size(); ++i) {
    SCOPED_TRACE(peft.saved_modules[i].path);
    EXPECT_EQ(ours.saved_modules[i].path, peft.saved_modules[i].path);
    EXPECT_EQ(ours.saved_modules[i].shape, peft.saved_modules[i].shape);
    ExpectSameMatrix(ours.saved_modules[i].weight, peft.saved_modules[i].weight,
                     start.saved_modules[i].weight);
  }
}

// `small_loss`: a smaller loss is compared as if it were so large; 0 = every one by its own size.
inline void ExpectSameSteps(const std::vector<StepReport>& ours, const Json& expected,
                            double small_loss = 0) {
  const Json& loss = expected["loss"];
  const Json& grad_norm = expected["grad_norm"];
  ASSERT_EQ(ours.size(), loss.size());
  for (size_t i = 0; i < ours.size(); ++i) {
    SCOPED_TRACE(i);
    const double value = loss[i].get<double>();
    EXPECT_NEAR(ours[i].loss, value, kLossTolerance * std::max(std::abs(value), small_loss));
    EXPECT_NEAR(ours[i].grad_norm / grad_norm[i].get<double>(), 1, kGradNormTolerance);
  }
}

// The case's recipe and each variation of it that must not change the outcome, on both paths.
inline std::vector<Json> Recipes(const Json& expected) {
  std::vector<Json> recipes;
  for (const char* path : {"fast", "reference"}) {
    Json recipe = expected["recipe"];
    recipe["path"] = path;
    recipes.push_back(recipe);
    for (const Json& keys : expected["also"]) {
      recipes.push_back(recipe);
      recipes.back().update(keys);
    }
  }
  return recipes;
}

}  // namespace evolora::testing
