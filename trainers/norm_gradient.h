#pragma once

#include <cstdint>

#include "ATen/core/Tensor.h"

namespace evolora {

// Where the gradient of a weight is added; null for one that is frozen or undefined.
float* GradientOf(const at::Tensor& weight);

// Of y = weight * unit by rows [rows, width]: gradient_i += sum over rows of dy unit, summed in
// fp64 in one order, whatever the number of threads.
void AddNormGradient(const float* dy, const float* unit, int64_t rows, int64_t width,
                     float* gradient);

}  // namespace evolora
