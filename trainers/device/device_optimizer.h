#pragma once

#include <cstdint>

#include "ATen/core/Tensor.h"
#include "adapter_parameters.h"
#include "device/device_math.h"
#include "evolora/trainers/recipe.h"
#include "optimizer.h"

namespace evolora {

// On the device where the parameters are; the clip factor stays there.
class DeviceOptimizer : public Optimizer {
 public:
  // Both outlive the object.
  DeviceOptimizer(const LoraRecipe& recipe, const AdapterParameters& parameters);

  void Step(int64_t step, double learning_rate) override;
  double GradientNorm() override;

 private:
  const LoraRecipe& recipe_;
  const AdapterParameters& parameters_;
  DeviceMath math_;
  at::Tensor partials_;   // [kNormPartials] fp64
  at::Tensor norm_clip_;  // [2]
  at::Tensor groups_;     // [P]: 1 for what learns at the rate of B; undefined: one rate for all
};

}  // namespace evolora
