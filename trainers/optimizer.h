#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "evolora/trainers/recipe.h"
#include "flat_parameters.h"

namespace evolora {

// Clipping and AdamW over the flat buffers of a run, for host and device.
//   norm = |gradient|, clip = min(1, max_grad_norm / (norm + 1e-6))       (torch's clip_grad_norm_)
//   AdamW as torch's fused one, the gradient times clip; each group at its own rate and decay
class Optimizer {
 public:
  virtual ~Optimizer() = default;
  // Optimiser step `step`, from 0: norm, clipping, AdamW. A gradient whose norm is not finite
  // changes nothing. On a device it is on its way when the call returns.
  virtual void Step(int64_t step, double learning_rate) = 0;
  // The norm of the whole gradient of the last Step, before clipping. Waits for a device.
  virtual double GradientNorm() = 0;
};

// On the CPU, of all groups of `parameters`. Recipe and buffers outlive the object. With precision
// kBf16, gradient, values and moments are kept as bf16 values.
std::unique_ptr<Optimizer> MakeHostOptimizer(const LoraRecipe& recipe,
                                             const FlatParameters& parameters,
                                             std::vector<ParameterGroup> groups);

// To the nearest bf16 values, in place.
void RoundToBf16(const at::Tensor& flat);

}  // namespace evolora
