#pragma once

#include <cstdint>
#include <memory>

#include "adapter_parameters.h"
#include "evolora/trainers/recipe.h"

namespace evolora {

// Clipping and AdamW over the flat buffers of one adapter, for host and device.
//   norm = |gradient|, clip = min(1, max_grad_norm / (norm + 1e-6))       (torch's clip_grad_norm_)
//   AdamW as torch's fused one, the gradient times clip; B and magnitudes at lora_plus_ratio times
//   the rate
class Optimizer {
 public:
  virtual ~Optimizer() = default;
  // Optimiser step `step`, from 0: norm, clipping, AdamW. A gradient whose norm is not finite
  // changes nothing. On a device it is on its way when the call returns.
  virtual void Step(int64_t step, double learning_rate) = 0;
  // The norm of the whole gradient of the last Step, before clipping. Waits for a device.
  virtual double GradientNorm() = 0;
};

// On the CPU. Both arguments outlive the object. With precision kBf16, gradient, values and moments
// are kept as bf16 values.
std::unique_ptr<Optimizer> MakeHostOptimizer(const LoraRecipe& recipe,
                                             const AdapterParameters& parameters);

// To the nearest bf16 values, in place.
void RoundToBf16(const at::Tensor& flat);

}  // namespace evolora
