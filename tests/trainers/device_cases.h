#pragma once

#include <string>

#include "device/device_path.h"
#include "evolora/trainers/lora_trainer.h"
#include "trainers/gradient_case.h"

namespace evolora::testing {

// Loss and gradient of all rows of a case on the device path.
Gradient DeviceGradient(const Case& c, const DevicePathOptions& options);
Gradient ReferenceGradient(const Case& c);

// A run of nine steps with clipping, weight decay and LoRA+.
TrainingJob DeviceJob();

// "" or what differs: loss or gradient norm of a step by more than `tolerance`, relative.
std::string Difference(const TrainedAdapter& actual, const TrainedAdapter& expected,
                       double tolerance);

}  // namespace evolora::testing
