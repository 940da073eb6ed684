#pragma once

#include "ATen/core/Tensor.h"
#include "evolora/model/llama_config.h"

namespace evolora {

// Rotary position embedding in rotate-half order: with h = head_dim / 2, element j and j + h of a
// head are one pair, turned by position * frequency[j]:
//   y[j]     = x[j] * cos - x[j + h] * sin
//   y[j + h] = x[j + h] * cos + x[j] * sin
// Frequencies as in transformers' modeling_rope_utils (default, linear, llama3), computed in fp32.
// These functions throw on out of memory, as LibTorch does: call them inside CatchTorch.

// [head_dim / 2], fp32. REQUIRES: ValidateLlamaConfig(config) is OK.
at::Tensor RopeInverseFrequencies(const LlamaConfig& config);

struct RopeTables {
  at::Tensor cos;  // positions.shape + [head_dim / 2], fp32
  at::Tensor sin;
};

// Cosines and sines of every entry of `positions` (int64, any shape).
RopeTables RopeAt(const at::Tensor& inverse_frequencies, const at::Tensor& positions);

}  // namespace evolora
