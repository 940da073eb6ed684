#pragma once

#include <cstdint>
#include <memory>

#include "ATen/core/Tensor.h"
#include "device/graph_cache.h"
#include "gradient_path.h"

namespace evolora {

struct DevicePathOptions {
  at::Device device = at::kCPU;                 // open: see open_device.h
  at::ScalarType dtype = at::kFloat;            // of base and activations; or kBFloat16
  int64_t logits_per_chunk = int64_t{1} << 28;  // that exist at once
  // Pads micro-batches to few shapes and runs those that come again as graphs: up to the order of
  // sums the same numbers.
  bool graphs = false;
  // What records them; null: MakeCudaGraphRecorder, which the CPU has not.
  std::shared_ptr<GraphRecorder> recorder;
};

// The path for GPUs: the fast path's formulas as matrix products of LibTorch and own kernels
// between them, over rows packed in one token dimension; no autograd graph. Prefixes that rows
// share are computed for each row. EnqueueGradient does not wait for the device. Of a row that
// stands in a step more than once dpo weighs each by its own log-probabilities.
// `inputs.lora` lives on options.device. On the CPU it gives the same numbers: for tests.
std::unique_ptr<GradientPath> MakeDevicePath(const GradientPathInputs& inputs,
                                             const DevicePathOptions& options);

}  // namespace evolora
