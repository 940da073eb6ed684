#pragma once

#include <cstdint>
#include <vector>

#include "ATen/core/Tensor.h"
#include "c10/core/Device.h"

namespace evolora {

// What a run trains: buffers of one length, each a contiguous fp32 vector.
struct FlatParameters {
  at::Tensor value;     // [P]
  at::Tensor gradient;  // [P]
  at::Tensor moment1;   // [P]
  at::Tensor moment2;   // [P]

  // Zeros on the CPU.
  void AllocateBuffers(int64_t total);
  void MoveBuffers(c10::Device device);
};

// A leaf over a part of `value` whose gradient accumulates in that part of `gradient`.
at::Tensor LeafOver(const at::Tensor& value_view, const at::Tensor& gradient_view);

// Parts of the buffers that an optimiser treats alike: views, as many in each list.
struct ParameterGroup {
  std::vector<at::Tensor> values, gradients, moments1, moments2;
  double rate_factor = 1;  // of the learning rate
  double weight_decay = 0;
};

// The group of `count` values from `begin` on.
ParameterGroup GroupOfRange(const FlatParameters& flat, int64_t begin, int64_t count);

}  // namespace evolora
