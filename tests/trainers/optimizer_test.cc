#include "optimizer.h"

#include <cmath>
#include <memory>
#include <vector>

#include "ATen/ATen.h"
#include "adapter_parameters.h"
#include "evolora/core/random.h"
#include "model/random_model.h"
#include "support/status_matchers.h"

namespace evolora {
namespace {

// The formulas in fp64, value by value.
struct Scalar {
  double value, moment1 = 0, moment2 = 0;
  void Step(const LoraRecipe& r, int64_t t, double gradient, double rate) {
    value *= 1 - rate * r.weight_decay;
    moment1 = r.beta1 * moment1 + (1 - r.beta1) * gradient;
    moment2 = r.beta2 * moment2 + (1 - r.beta2) * gradient * gradient;
    const auto n = static_cast<double>(t);
    value -= rate * (moment1 / (1 - std::pow(r.beta1, n))) /
             (std::sqrt(moment2 / (1 - std::pow(r.beta2, n))) + r.epsilon);
  }
};

AdapterParameters Parameters(const LoraRecipe& recipe) {
  const auto base = testing::RandomWeights(testing::SmallConfig(), 3);
  auto parameters = AdapterParameters::Create(*base, recipe, /*init=*/nullptr);
  EXPECT_TRUE(parameters.ok()) << parameters.status();
  return *std::move(parameters);
}

void FillGradient(const AdapterParameters& parameters, double size, uint64_t seed) {
  Random random(seed);
  float* gradient = parameters.gradient.mutable_data_ptr<float>();
  for (int64_t i = 0; i < parameters.gradient.numel(); ++i) {
    gradient[i] = static_cast<float>((random.NextDouble() - 0.5) * size);
  }
}

void ExpectStepsOfTheFormulas(const LoraRecipe& recipe) {
  const AdapterParameters parameters = Parameters(recipe);
  const std::unique_ptr<Optimizer> optimizer =
      MakeHostOptimizer(recipe, parameters, parameters.Groups(recipe));
  const auto count = static_cast<size_t>(parameters.value.numel());
  const float* values = parameters.value.const_data_ptr<float>();
  const float* gradient = parameters.gradient.const_data_ptr<float>();
  const at::Tensor is_b = parameters.value.clone().zero_();
  for (const at::Tensor& part : parameters.PartsB(is_b)) at::Tensor(part).fill_(1);
  std::vector<Scalar> expected;
  for (size_t i = 0; i < count; ++i) expected.push_back({static_cast<double>(values[i])});
  for (int64_t step = 0; step < 3; ++step) {
    FillGradient(parameters, step == 1 ? 4 : 1e-3, static_cast<uint64_t>(step));  // 1 is clipped
    double squares = 0;
    for (size_t i = 0; i < count; ++i) squares += std::pow(static_cast<double>(gradient[i]), 2);
    const double norm = std::sqrt(squares), rate = 0.01 / static_cast<double>(step + 1);
    const double clip =
        recipe.max_grad_norm > 0 ? std::min(1.0, recipe.max_grad_norm / (norm + 1e-6)) : 1;
    for (size_t i = 0; i < count; ++i) {
      const double factor = is_b.const_data_ptr<float>()[i] > 0 ? recipe.lora_plus_ratio : 1;
      expected[i].Step(recipe, step + 1, clip * static_cast<double>(gradient[i]), rate * factor);
    }
    optimizer->Step(step, rate);
    EXPECT_NEAR(optimizer->GradientNorm() / norm, 1, 1e-6);
    for (size_t i = 0; i < count; ++i) {
      ASSERT_NEAR(values[i], expected[i].value, 2e-6) << "value " << i << ", step " << step;
    }
  }
}

TEST(HostOptimizer, TakesTheStepsOfTheFormulas) {
  LoraRecipe recipe;
  recipe.rank = 3;
  ExpectStepsOfTheFormulas(recipe);
  recipe.weight_decay = 0.1;
  recipe.beta1 = 0.8;
  ExpectStepsOfTheFormulas(recipe);
}

TEST(HostOptimizer, BLearnsAtItsOwnRate) {
  LoraRecipe recipe;
  recipe.rank = 3;
  recipe.lora_plus_ratio = 16;
  ExpectStepsOfTheFormulas(recipe);
}

TEST(HostOptimizer, WithoutALimitNothingIsClipped) {
  LoraRecipe recipe;
  recipe.rank = 3;
  recipe.max_grad_norm = 0;
  ExpectStepsOfTheFormulas(recipe);
}

at::Tensor Rounded(const at::Tensor& tensor) { return tensor.to(at::kBFloat16).to(at::kFloat); }

// In bf16 a step is the fp32 one from a rounded gradient, then rounded.
TEST(HostOptimizer, InBf16GradientValuesAndMomentsAreRoundedAtEveryStep) {
  LoraRecipe recipe;
  recipe.rank = 3;
  recipe.max_grad_norm = 0;
  LoraRecipe bf16 = recipe;
  bf16.precision = TrainingPrecision::kBf16;
  const AdapterParameters exact = Parameters(recipe), rounded = Parameters(bf16);
  const auto exact_step = MakeHostOptimizer(recipe, exact, exact.Groups(recipe));
  const auto rounded_step = MakeHostOptimizer(bf16, rounded, rounded.Groups(bf16));
  const at::Tensor AdapterParameters::*const buffers[] = {
      &AdapterParameters::value, &AdapterParameters::moment1, &AdapterParameters::moment2};
  for (int64_t step = 0; step < 3; ++step) {
    FillGradient(rounded, 1e-2, static_cast<uint64_t>(step));
    ASSERT_FALSE(Rounded(rounded.gradient).equal(rounded.gradient));
    at::Tensor(exact.gradient).copy_(Rounded(rounded.gradient));
    for (const auto buffer : buffers) at::Tensor(exact.*buffer).copy_(rounded.*buffer);
    exact_step->Step(step, 1e-3);
    rounded_step->Step(step, 1e-3);
    for (const auto buffer : buffers) {
      EXPECT_TRUE((rounded.*buffer).equal(Rounded(exact.*buffer))) << "step " << step;
    }
  }
}

}  // namespace
}  // namespace evolora
