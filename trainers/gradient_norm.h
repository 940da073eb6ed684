#pragma once

#include <cstdint>

namespace evolora {

// Euclidean norm of `count` values, summed in fp64 in one order, whatever the number of threads.
// (A sum of millions of squares in a few fp32 lanes comes out up to 1e-3 too small: it stops
// growing by its small terms. The clip factor follows the norm, and with it the moments.)
double GradientNorm(const float* gradient, int64_t count);

}  // namespace evolora
