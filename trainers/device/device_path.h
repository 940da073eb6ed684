#pragma once

#include <cstdint>
#include <memory>

#include "ATen/core/Tensor.h"
#include "gradient_path.h"

namespace evolora {

struct DevicePathOptions {
  at::Device device = at::kCPU;                 // open: see open_device.h
  at::ScalarType dtype = at::kFloat;            // of base and activations; or kBFloat16
  int64_t logits_per_chunk = int64_t{1} << 28;  // that exist at once
};

// The path for GPUs: the fast path's formulas as matrix products of LibTorch and own kernels
// between them, over rows packed without padding in one token dimension; no autograd graph, and the
// host waits for the device once a step, where it reads the loss. Prefixes that rows share are
// computed for each row. REQUIRES: a recipe without use_dora and lora_dropout. `inputs.lora` lives
// on options.device. On the CPU it gives the same numbers: for tests.
std::unique_ptr<GradientPath> MakeDevicePath(const GradientPathInputs& inputs,
                                             const DevicePathOptions& options);

}  // namespace evolora
