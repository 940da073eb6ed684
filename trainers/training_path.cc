#include "training_path.h"

#include <utility>

#include "device/device_optimizer.h"
#include "device/device_path.h"

namespace evolora {

absl::StatusOr<TrainingPath> PathOn(c10::Device device, const LoraRecipe& recipe) {
  const bool fast_on_gpu = device.is_cuda() && recipe.path == TrainingPath::kFast;
  const TrainingPath path = fast_on_gpu ? TrainingPath::kDevice : recipe.path;
  if (device.is_cuda() && path == TrainingPath::kReference) {
    return absl::InvalidArgumentError("recipe.path: reference runs on the CPU only");
  }
  const bool adapts_otherwise = recipe.use_dora || recipe.init_lora_weights != LoraInit::kKaiming;
  if (recipe.precision != TrainingPrecision::kFp32 && path == TrainingPath::kFast &&
      adapts_otherwise) {
    return absl::InvalidArgumentError(
        "recipe.precision: on the fast path bf16 is not computed with use_dora or another "
        "init_lora_weights, which read the base's own numbers");
  }
  if (recipe.precision == TrainingPrecision::kBf16Autocast && path == TrainingPath::kDevice) {
    return absl::InvalidArgumentError(
        "recipe.precision: bf16-autocast is of the paths fast (on the CPU) and reference; the "
        "device path has bf16");
  }
  return path;
}

at::ScalarType DeviceTypeOf(const LoraRecipe& recipe) {
  return recipe.precision == TrainingPrecision::kBf16 ? at::kBFloat16 : at::kFloat;
}

std::unique_ptr<GradientPath> StartDevicePath(c10::Device device, const LoraRecipe& recipe,
                                              const TrainOptions& options,
                                              std::shared_ptr<const ResidentBase> base,
                                              TrainingRun& run) {
  const bool full = recipe.method == TrainingMethod::kFull;
  full ? run.base_parameters().MoveTo(device) : run.adapter_parameters().MoveTo(device);
  std::unique_ptr<GradientPath> path =
      MakeDevicePath(run.inputs(), {.device = device,
                                    .dtype = DeviceTypeOf(recipe),
                                    .graphs = options.device_graphs && device.is_cuda(),
                                    .base = std::move(base)});
  run.set_optimizer(full ? std::make_unique<DeviceOptimizer>(recipe, run.base_parameters())
                         : std::make_unique<DeviceOptimizer>(recipe, run.adapter_parameters()));
  return path;
}

}  // namespace evolora
