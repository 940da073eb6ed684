#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "c10/core/Device.h"
#include "device/device_base.h"
#include "evolora/trainers/lora_trainer.h"
#include "evolora/trainers/recipe.h"
#include "gradient_path.h"
#include "training_run.h"

namespace evolora {

// The path that the recipe means on a device. InvalidArgument: it does not run there.
absl::StatusOr<TrainingPath> PathOn(c10::Device device, const LoraRecipe& recipe);

// What the device path computes in: the recipe's precision.
at::ScalarType DeviceTypeOf(const LoraRecipe& recipe);

// The device path of a run that has started, and its optimiser on the device in the run. `base`
// null: it is copied there.
std::unique_ptr<GradientPath> StartDevicePath(c10::Device device, const LoraRecipe& recipe,
                                              const TrainOptions& options,
                                              std::shared_ptr<const ResidentBase> base,
                                              TrainingRun& run);

}  // namespace evolora
