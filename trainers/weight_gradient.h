#pragma once

#include <cstdint>

#include "ATen/core/Tensor.h"
#include "absl/types/span.h"

namespace evolora {

// Gradients of linear layers that are trained as a whole, from `rows` rows x of their input and the
// gradient dy of their outputs, which stand side by side in rows of `ldy`. Nothing is done for
// those that are frozen or undefined.

// dW += dy^T x for each W [out, in] of y = x W^T; x [rows, in].
void AddWeightGradients(absl::Span<const at::Tensor> weights, const float* dy, int64_t ldy,
                        const float* x, int64_t rows);
// db += the sum of the rows of dy, in fp64, in one order.
void AddBiasGradients(absl::Span<const at::Tensor> biases, const float* dy, int64_t ldy,
                      int64_t rows);

// y[m, i] = unit[m, i] * weight[i]: the output of a norm again, [rows, width].
void ScaleUnit(const at::Tensor& weight, const float* unit, int64_t rows, float* y);

}  // namespace evolora
