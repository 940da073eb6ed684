#pragma once

#include <cstdint>

#include "ATen/core/Tensor.h"
#include "adapter_parameters.h"
#include "device/device_math.h"
#include "evolora/trainers/recipe.h"

namespace evolora {

// Clipping and AdamW on the device where the parameters are, in the formulas of the CPU's step. The
// clip factor stays on the device.
class DeviceOptimizer {
 public:
  // Both outlive the object.
  DeviceOptimizer(const LoraRecipe& recipe, const AdapterParameters& parameters);

  // The norm of the whole gradient, before clipping. The host waits for it.
  double GradientNorm();

  // Optimiser step `step`, from 0, with the clip factor of the last GradientNorm. Changes nothing
  // when that norm was not finite.
  void Update(int64_t step, double learning_rate);

 private:
  const LoraRecipe& recipe_;
  const AdapterParameters& parameters_;
  DeviceMath math_;
  at::Tensor partials_;   // [kNormPartials] fp64
  at::Tensor norm_clip_;  // [2]
  at::Tensor groups_;     // [P]: 1 for what learns at the rate of B; undefined: one rate for all
};

}  // namespace evolora
