#include "gradient_norm.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "ATen/Parallel.h"

namespace evolora {
namespace {

constexpr int64_t kBlock = 1 << 14;
constexpr int64_t kLanes = 16;

double SumOfSquares(const float* values, int64_t count) {
  double lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (int64_t j = 0; j < kLanes; ++j) {
      const auto value = static_cast<double>(values[i + j]);
      lanes[j] += value * value;
    }
  }
  for (; i < count; ++i)
    lanes[0] += static_cast<double>(values[i]) * static_cast<double>(values[i]);
  double sum = 0;
  for (const double lane : lanes) sum += lane;
  return sum;
}

}  // namespace

double GradientNorm(const float* gradient, int64_t count) {
  const int64_t num_blocks = (count + kBlock - 1) / kBlock;
  std::vector<double> sums(static_cast<size_t>(num_blocks));
  at::parallel_for(0, num_blocks, 8, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t first = i * kBlock;
      sums[static_cast<size_t>(i)] =
          SumOfSquares(gradient + first, std::min(kBlock, count - first));
    }
  });
  double sum = 0;
  for (const double part : sums) sum += part;
  return std::sqrt(sum);
}

}  // namespace evolora
