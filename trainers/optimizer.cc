#include "optimizer.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "ATen/core/grad_mode.h"
#include "ATen/ops/_fused_adamw.h"
#include "ATen/ops/full.h"
#include "gradient_norm.h"

namespace evolora {
namespace {

class HostOptimizer : public Optimizer {
 public:
  HostOptimizer(const LoraRecipe& recipe, const FlatParameters& parameters,
                std::vector<ParameterGroup> groups)
      : recipe_(recipe), parameters_(parameters), groups_(std::move(groups)) {}

  void Step(int64_t step, double learning_rate) override {
    const at::NoGradGuard no_grad;
    if (keeps_bf16()) RoundToBf16(parameters_.gradient);
    norm_ = evolora::GradientNorm(parameters_.gradient.const_data_ptr<float>(),
                                  parameters_.gradient.numel());
    if (!std::isfinite(norm_)) return;
    UpdateInFp32(step, learning_rate);
    if (!keeps_bf16()) return;
    for (const at::Tensor& flat : {parameters_.value, parameters_.moment1, parameters_.moment2}) {
      RoundToBf16(flat);
    }
  }

  double GradientNorm() override { return norm_; }

 private:
  bool keeps_bf16() const { return recipe_.precision == TrainingPrecision::kBf16; }

  void UpdateInFp32(int64_t step, double learning_rate) {
    if (recipe_.max_grad_norm > 0) {
      const double clip = std::min(1.0, recipe_.max_grad_norm / (norm_ + 1e-6));
      if (clip < 1) at::Tensor(parameters_.gradient).mul_(clip);
    }
    for (const ParameterGroup& group : groups_) {
      AdamW(group, step, learning_rate * group.rate_factor);
    }
  }

  // Updates the values in place.
  void AdamW(const ParameterGroup& group, int64_t step, double learning_rate) const {
    std::vector<at::Tensor> step_counts;
    for (size_t i = 0; i < group.values.size(); ++i) {
      step_counts.push_back(at::full({}, static_cast<double>(step + 1), at::kFloat));
    }
    at::_fused_adamw_(group.values, group.gradients, group.moments1, group.moments2,
                      /*max_exp_avg_sqs=*/{}, step_counts, learning_rate, recipe_.beta1,
                      recipe_.beta2, group.weight_decay, recipe_.epsilon, /*amsgrad=*/false,
                      /*maximize=*/false);
  }

  const LoraRecipe& recipe_;
  const FlatParameters& parameters_;
  const std::vector<ParameterGroup> groups_;
  double norm_ = 0;
};

}  // namespace

void RoundToBf16(const at::Tensor& flat) {
  const at::NoGradGuard no_grad;
  at::Tensor(flat).copy_(flat.to(at::kBFloat16));
}

std::unique_ptr<Optimizer> MakeHostOptimizer(const LoraRecipe& recipe,
                                             const FlatParameters& parameters,
                                             std::vector<ParameterGroup> groups) {
  return std::make_unique<HostOptimizer>(recipe, parameters, std::move(groups));
}

}  // namespace evolora
