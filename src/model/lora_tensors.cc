#include "evolora/model/lora_tensors.h"

#include <algorithm>
#include <utility>

#include "ATen/Functions.h"
#include "ATen/core/grad_mode.h"
#include "absl/strings/str_cat.h"
#include "evolora/adapters/tensor_file.h"
#include "evolora/core/status_macros.h"
#include "evolora/model/llama_weights.h"
#include "evolora/model/torch_status.h"

namespace evolora {
namespace {

at::Tensor CopyIn(const std::vector<float>& values, std::vector<int64_t> shape) {
  at::Tensor tensor = at::empty(shape, at::kFloat);
  std::copy(values.begin(), values.end(), tensor.mutable_data_ptr<float>());
  return tensor;
}

std::vector<float> CopyOut(const at::Tensor& tensor) {
  const at::Tensor flat = tensor.detach().to(at::kCPU, at::kFloat).contiguous();
  const float* data = flat.const_data_ptr<float>();
  return {data, data + flat.numel()};
}

bool ShapesAgree(const LoraTensor& module) {
  return module.a.defined() && module.b.defined() && module.a.dim() == 2 && module.b.dim() == 2 &&
         module.a.size(0) == module.b.size(1) &&
         (!module.magnitude.defined() ||
          (module.magnitude.dim() == 1 && module.magnitude.size(0) == module.b.size(0)));
}

}  // namespace

at::Tensor AdaptedRowNorms(const at::Tensor& weight, const LoraTensor& module) {
  const at::NoGradGuard no_grad;
  return at::addmm(weight, module.b, module.a, /*beta=*/1, /*alpha=*/module.scale).norm(2, 1);
}

static absl::Status CheckSavedFit(const LlamaConfig& config, const LoraAdapter& adapter) {
  if (adapter.saved_modules.empty()) return absl::OkStatus();
  const std::vector<NamedShape> known = ReplaceableModules(config);
  for (const SavedModule& module : adapter.saved_modules) {
    const auto found = std::find_if(known.begin(), known.end(), [&](const NamedShape& entry) {
      return entry.name == module.path;
    });
    if (found == known.end()) {
      return absl::InvalidArgumentError(absl::StrCat(
          "saved module ", module.path, ": neither embedding nor head nor norm of this base"));
    }
    if (found->shape != module.shape) {
      return absl::InvalidArgumentError(absl::StrCat("saved module ", module.path, ": made for ",
                                                     ShapeText(module.shape), ", the base has ",
                                                     ShapeText(found->shape)));
    }
  }
  return absl::OkStatus();
}

absl::Status CheckAdapterFits(const LlamaConfig& config, const LoraAdapter& adapter) {
  RETURN_IF_ERROR(ValidateLoraAdapter(adapter));
  for (const LoraModule& module : adapter.modules) {
    const auto [out, in] = LinearShape(config, module.path);
    if (out == 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("adapter module ", module.path, ": the base has no such linear layer"));
    }
    if (module.in_features != in || module.out_features != out) {
      return absl::InvalidArgumentError(absl::StrCat("adapter module ", module.path, ": made for [",
                                                     module.out_features, ", ", module.in_features,
                                                     "], the base has [", out, ", ", in, "]"));
    }
  }
  return CheckSavedFit(config, adapter);
}

absl::StatusOr<LoraTensors> LoraTensorsFromAdapter(const LlamaConfig& config,
                                                   const LoraAdapter& adapter) {
  RETURN_IF_ERROR(CheckAdapterFits(config, adapter));
  return CatchTorch("LoraTensorsFromAdapter", [&]() -> absl::StatusOr<LoraTensors> {
    LoraTensors lora;
    for (const LoraModule& module : adapter.modules) {
      LoraTensor& tensor = lora.modules[module.path];
      tensor = {CopyIn(module.a, {module.rank, module.in_features}),
                CopyIn(module.b, {module.out_features, module.rank}), module.scale};
      if (module.magnitude.empty()) continue;
      tensor.magnitude = CopyIn(module.magnitude, {module.out_features});
    }
    for (const SavedModule& module : adapter.saved_modules) {
      lora.saved[module.path] = CopyIn(module.weight, module.shape);
    }
    return lora;
  });
}

absl::StatusOr<LoraAdapter> LoraTensorsToAdapter(const LoraTensors& lora,
                                                 const std::string& base_name,
                                                 const std::string& base_revision) {
  return CatchTorch("LoraTensorsToAdapter", [&]() -> absl::StatusOr<LoraAdapter> {
    LoraAdapter adapter{.base_name = base_name, .base_revision = base_revision};
    for (const auto& [path, module] : lora.modules) {
      if (!ShapesAgree(module)) {
        return absl::InvalidArgumentError(absl::StrCat(
            "adapter module ", path, ": A, B and magnitude are not [r, in], [out, r], [out]"));
      }
      adapter.modules.push_back({.path = path,
                                 .rank = module.a.size(0),
                                 .in_features = module.a.size(1),
                                 .out_features = module.b.size(0),
                                 .scale = module.scale,
                                 .a = CopyOut(module.a),
                                 .b = CopyOut(module.b)});
      if (module.magnitude.defined()) adapter.modules.back().magnitude = CopyOut(module.magnitude);
    }
    for (const auto& [path, weight] : lora.saved) {
      adapter.saved_modules.push_back({path, weight.sizes().vec(), CopyOut(weight)});
    }
    RETURN_IF_ERROR(ValidateLoraAdapter(adapter));
    return adapter;
  });
}

}  // namespace evolora
