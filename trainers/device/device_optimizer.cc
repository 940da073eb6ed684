#include "device/device_optimizer.h"

#include <utility>

#include "ATen/Functions.h"
#include "ATen/core/grad_mode.h"
#include "c10/core/DeviceGuard.h"

namespace evolora {

DeviceOptimizer::DeviceOptimizer(const LoraRecipe& recipe, const FlatParameters& parameters,
                                 std::vector<Range> ranges)
    : recipe_(recipe),
      parameters_(parameters),
      ranges_(std::move(ranges)),
      math_(parameters.value.device(), at::kFloat),
      partials_(at::empty({kNormPartials}, math_.fp32().dtype(at::kDouble))),
      norm_clip_(at::empty({2}, math_.fp32())) {}

DeviceOptimizer::DeviceOptimizer(const LoraRecipe& recipe, const BaseParameters& parameters)
    : DeviceOptimizer(
          recipe, parameters,
          {{0, parameters.num_decayed(), recipe.weight_decay},
           {parameters.num_decayed(), parameters.value.numel() - parameters.num_decayed(), 0}}) {}

DeviceOptimizer::DeviceOptimizer(const LoraRecipe& recipe, const AdapterParameters& parameters)
    : DeviceOptimizer(recipe, parameters, {{0, parameters.value.numel(), recipe.weight_decay}}) {
  if (recipe.lora_plus_ratio == 1) return;
  groups_ = at::zeros(parameters.value.sizes(), math_.fp32().dtype(at::kByte));
  for (const at::Tensor& part : parameters.PartsB(groups_)) part.fill_(1);
}

void DeviceOptimizer::Step(int64_t step, double learning_rate) {
  const at::NoGradGuard no_grad;
  const c10::DeviceGuard guard(math_.device());
  math_.GradientNorm({.gradient = parameters_.gradient.const_data_ptr<float>(),
                      .count = parameters_.gradient.numel(),
                      .max_norm = static_cast<float>(recipe_.max_grad_norm),
                      .partials = partials_.mutable_data_ptr<double>(),
                      .norm_clip = norm_clip_.mutable_data_ptr<float>()});
  for (const Range& range : ranges_) {
    const auto part = [&](const at::Tensor& flat) {
      return flat.mutable_data_ptr<float>() + range.begin;
    };
    math_.AdamW(
        {.value = part(parameters_.value),
         .gradient = part(parameters_.gradient),
         .moment1 = part(parameters_.moment1),
         .moment2 = part(parameters_.moment2),
         .count = range.count,
         .clip = norm_clip_.const_data_ptr<float>() + 1,
         .groups = groups_.defined() ? groups_.const_data_ptr<uint8_t>() + range.begin : nullptr,
         .rates = {learning_rate, learning_rate * recipe_.lora_plus_ratio},
         .beta1 = recipe_.beta1,
         .beta2 = recipe_.beta2,
         .epsilon = recipe_.epsilon,
         .weight_decay = range.weight_decay,
         .step = step + 1});
  }
}

double DeviceOptimizer::GradientNorm() { return norm_clip_.select(0, 0).item<double>(); }

}  // namespace evolora
