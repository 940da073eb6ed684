#include "evolora/model/adapter_norm.h"

#include <algorithm>
#include <cmath>

#include "ATen/ops/mm.h"
#include "evolora/core/status_macros.h"
#include "evolora/model/llama_weights.h"
#include "evolora/model/lora_tensors.h"
#include "evolora/model/torch_status.h"

namespace evolora {

absl::StatusOr<double> MaxRelativeNorm(const LlamaWeights& weights, const LoraAdapter& adapter) {
  return CatchTorch("adapter norm", [&]() -> absl::StatusOr<double> {
    ASSIGN_OR_RETURN(const LoraTensors lora, LoraTensorsFromAdapter(weights.config, adapter));
    double greatest = 0;
    for (const auto& [path, module] : lora.modules) {
      const at::Tensor gram_a = at::mm(module.a, module.a.t());
      const at::Tensor gram_b = at::mm(module.b.t(), module.b);
      const double squared = gram_a.mul(gram_b).sum(at::kDouble).item<double>();
      const double base = FindLinear(weights, path).norm().item<double>();
      greatest = std::max(greatest, module.scale * std::sqrt(std::max(0.0, squared)) / base);
    }
    return greatest;
  });
}

}  // namespace evolora
