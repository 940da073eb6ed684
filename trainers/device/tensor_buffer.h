#pragma once

#include "ATen/core/Tensor.h"

namespace evolora {

// Uninitialised memory on a device that grows to the largest size asked for and is kept.
class TensorBuffer {
 public:
  // A contiguous tensor of these sizes at the start of the memory. Earlier tensors of this buffer
  // share the memory. All calls give the same options.
  const at::Tensor& Reserve(at::IntArrayRef sizes, const at::TensorOptions& options);
  // What the last Reserve gave.
  const at::Tensor& get() const { return tensor_; }

 private:
  at::Tensor flat_;
  at::Tensor tensor_;
};

}  // namespace evolora
