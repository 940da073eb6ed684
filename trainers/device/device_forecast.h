#pragma once

#include <cstdint>
#include <vector>

#include "adapter_plan.h"
#include "device/batch_shape.h"
#include "evolora/model/llama_config.h"
#include "evolora/trainers/run_forecast.h"

namespace evolora {

// What of a run the device path's memory depends on.
struct DeviceRun {
  const LlamaConfig& config;
  const LoraRecipe& recipe;
  const std::vector<PlannedModule>& modules;
  const std::vector<NamedShape>& saved;
  int64_t trainable_parameters = 0;
  BatchShape largest;   // of all micro-batches, each size for itself
  bool packed = false;  // flash attention
  bool graphs = false;
};

// The tensors of the device path, summed: device_base.h, device_layer.h, device_head.h, those that
// a pass keeps for a moment at its fullest, and the optimiser's.
DeviceMemoryForecast ForecastDeviceMemory(const DeviceRun& run);

}  // namespace evolora
