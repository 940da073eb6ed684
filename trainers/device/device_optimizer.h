#pragma once

#include <cstdint>
#include <vector>

#include "ATen/core/Tensor.h"
#include "adapter_parameters.h"
#include "base_parameters.h"
#include "device/device_math.h"
#include "evolora/trainers/recipe.h"
#include "optimizer.h"

namespace evolora {

// On the device where the parameters are; the clip factor stays there. Recipe and parameters
// outlive the object.
class DeviceOptimizer : public Optimizer {
 public:
  DeviceOptimizer(const LoraRecipe& recipe, const AdapterParameters& parameters);
  DeviceOptimizer(const LoraRecipe& recipe, const BaseParameters& parameters);

  void Step(int64_t step, double learning_rate) override;
  double GradientNorm() override;

 private:
  // Neighbouring values with one decay.
  struct Range {
    int64_t begin;
    int64_t count;
    double weight_decay;
  };
  DeviceOptimizer(const LoraRecipe& recipe, const FlatParameters& parameters,
                  std::vector<Range> ranges);

  const LoraRecipe& recipe_;
  const FlatParameters& parameters_;
  const std::vector<Range> ranges_;
  DeviceMath math_;
  at::Tensor partials_;   // [kNormPartials] fp64
  at::Tensor norm_clip_;  // [2]
  at::Tensor groups_;     // [P]: 1 for what learns at the rate of B; undefined: one rate for all
};

}  // namespace evolora
