#pragma once

#include <cstdint>
#include <memory>

#include "ATen/core/Tensor.h"
#include "device/device_base.h"
#include "device/device_limits.h"
#include "device/graph_cache.h"
#include "device/packed_attention.h"
#include "gradient_path.h"

namespace evolora {

struct DevicePathOptions {
  at::Device device = at::kCPU;       // open: see open_device.h
  at::ScalarType dtype = at::kFloat;  // of base and activations; or kBFloat16
  DeviceLimits limits;
  // Pads micro-batches to few shapes and runs those that come again as graphs: up to the order of
  // sums the same numbers.
  bool graphs = false;
  // Tokens that several rows begin with are computed once; not with dropout (adapter_dropout.h).
  bool share_prefixes = true;
  // Null: LibTorch's flash attention where it computes, else plain attention.
  std::shared_ptr<const PackedAttention> attention;
  // The base as it lies on the device, of the same dtype; null: it is copied there.
  std::shared_ptr<const ResidentBase> base;
  // What records them; null: MakeCudaGraphRecorder, which the CPU has not.
  std::shared_ptr<GraphRecorder> recorder;
};

// The path for GPUs: the fast path's formulas as matrix products of LibTorch and own kernels
// between them, over the tokens of a forest of rows (token_layout.h) packed in one dimension; no
// autograd graph. EnqueueGradient does not wait for the device.
// `inputs.lora` lives on options.device. On the CPU it gives the same numbers: for tests.
std::unique_ptr<GradientPath> MakeDevicePath(const GradientPathInputs& inputs,
                                             const DevicePathOptions& options);

}  // namespace evolora
