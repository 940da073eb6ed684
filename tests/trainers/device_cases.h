#pragma once

#include <memory>
#include <string>
#include <vector>

#include "adapter_parameters.h"
#include "device/device_path.h"
#include "evolora/trainers/lora_trainer.h"
#include "gradient_path.h"
#include "model/random_model.h"

namespace evolora::testing {

// A model, rows and a recipe whose gradients two paths compute.
struct DeviceCase {
  std::string name;
  LlamaConfig config = SmallConfig();
  LoraRecipe recipe;
  std::vector<TrainingRow> rows;
};

// Every architecture, ranks, places of adapters and windows; rows of 2 to 70 tokens.
std::vector<DeviceCase> ArchitectureCases();
std::vector<DeviceCase> AdapterCases();

// Loss and gradient of all rows of a case, with A and B both random.
struct DeviceGradient {
  double loss_sum = 0;
  AdapterParameters parameters;  // on the CPU
};
DeviceGradient ReferenceGradient(const DeviceCase& c);
DeviceGradient PathGradient(const DeviceCase& c, const DevicePathOptions& options);

// "" or what differs: the loss, or the gradient of a parameter, by more than `tolerance` of the
// norm of the expected one.
std::string Difference(const DeviceGradient& actual, const DeviceGradient& expected,
                       double tolerance);

// A run of nine steps with clipping, weight decay and LoRA+.
TrainingJob DeviceJob();

// "" or what differs: loss or gradient norm of a step by more than `tolerance`, relative.
std::string Difference(const TrainedAdapter& actual, const TrainedAdapter& expected,
                       double tolerance);

}  // namespace evolora::testing
