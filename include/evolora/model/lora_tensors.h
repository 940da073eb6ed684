#pragma once

#include <map>
#include <string>

#include "ATen/core/Tensor.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "evolora/adapters/lora_adapter.h"
#include "evolora/model/llama_config.h"

namespace evolora {

// One adapted linear layer as tensors; the formulas are those of LoraModule.
struct LoraTensor {
  at::Tensor a;          // [rank, in_features]
  at::Tensor b;          // [out_features, rank]
  double scale = 1;      // the factor that is applied (alpha / r, or alpha / sqrt(r))
  at::Tensor magnitude;  // [out_features]; undefined: plain LoRA
};

// A LoRA adapter as tensors. Whoever wants gradients sets requires_grad on a, b and magnitude.
struct LoraTensors {
  std::map<std::string, LoraTensor> modules;  // by full Hugging Face module path
  // Weights that take the place of the base's as a whole (SavedModule), by module path.
  std::map<std::string, at::Tensor> saved;
};

// Euclidean norms of the rows of W + scale * B A, [out_features], without gradient: what a
// magnitude is divided by. `weight` is W. Forms the sum: out * in values for the time of the call.
at::Tensor AdaptedRowNorms(const at::Tensor& weight, const LoraTensor& module);

// Whether `adapter` is well formed and fits the base: every module is a linear layer of `config`
// and has its shape, every saved module is one of ReplaceableModules. InvalidArgument names the
// module and the numbers.
absl::Status CheckAdapterFits(const LlamaConfig& config, const LoraAdapter& adapter);

// Copies into fresh fp32 CPU tensors without gradient. Errors: as CheckAdapterFits.
absl::StatusOr<LoraTensors> LoraTensorsFromAdapter(const LlamaConfig& config,
                                                   const LoraAdapter& adapter);

// Copies out (any device, any floating type, rounded to fp32), modules sorted by path.
// InvalidArgument: shapes of the tensors do not agree, or a value is not finite; names the module.
absl::StatusOr<LoraAdapter> LoraTensorsToAdapter(const LoraTensors& lora,
                                                 const std::string& base_name,
                                                 const std::string& base_revision);

}  // namespace evolora
