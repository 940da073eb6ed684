#include "evolora/model/adapter_norm.h"

#include <algorithm>
#include <cmath>

#include "ATen/ops/addmm.h"
#include "ATen/ops/mm.h"
#include "evolora/core/status_macros.h"
#include "evolora/model/llama_weights.h"
#include "evolora/model/lora_tensors.h"
#include "evolora/model/torch_status.h"

namespace evolora {
namespace {

double LoraNorm(const LoraTensor& module) {
  const at::Tensor gram_a = at::mm(module.a, module.a.t());
  const at::Tensor gram_b = at::mm(module.b.t(), module.b);
  const double squared = gram_a.mul(gram_b).sum(at::kDouble).item<double>();
  return std::abs(module.scale) * std::sqrt(std::max(0.0, squared));
}

double DoraNorm(const at::Tensor& weight, const LoraTensor& module) {
  const at::Tensor factor = module.magnitude.div(AdaptedRowNorms(weight, module)).unsqueeze(1);
  const at::Tensor adapted = at::addmm(weight, module.b, module.a, /*beta=*/1, module.scale);
  return adapted.mul(factor).sub(weight).norm().item<double>();
}

}  // namespace

absl::StatusOr<double> MaxRelativeNorm(const LlamaWeights& weights, const LoraAdapter& adapter) {
  return CatchTorch("adapter norm", [&]() -> absl::StatusOr<double> {
    ASSIGN_OR_RETURN(const LoraTensors lora, LoraTensorsFromAdapter(weights.config, adapter));
    double greatest = 0;
    for (const auto& [path, module] : lora.modules) {
      const at::Tensor weight = FindLinear(weights, path);
      const double norm = module.magnitude.defined() ? DoraNorm(weight, module) : LoraNorm(module);
      greatest = std::max(greatest, norm / weight.norm().item<double>());
    }
    for (const auto& [path, weight] : lora.saved) {
      const at::Tensor own = FindReplaceable(weights, path);
      const double norm = weight.sub(own).norm().item<double>();
      greatest = std::max(greatest, norm / own.norm().item<double>());
    }
    return greatest;
  });
}

}  // namespace evolora
