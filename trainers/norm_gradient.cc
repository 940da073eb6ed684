#include "norm_gradient.h"

#include <vector>

#include "ATen/Parallel.h"

namespace evolora {

float* GradientOf(const at::Tensor& weight) {
  if (!weight.defined() || !weight.requires_grad()) return nullptr;
  return weight.grad().mutable_data_ptr<float>();
}

void AddNormGradient(const float* dy, const float* unit, int64_t rows, int64_t width,
                     float* gradient) {
  at::parallel_for(0, width, 64, [&](int64_t begin, int64_t end) {
    std::vector<double> sums(static_cast<size_t>(end - begin));
    for (int64_t m = 0; m < rows; ++m) {
      for (int64_t i = begin; i < end; ++i) {
        sums[static_cast<size_t>(i - begin)] +=
            static_cast<double>(dy[m * width + i]) * static_cast<double>(unit[m * width + i]);
      }
    }
    for (int64_t i = begin; i < end; ++i) {
      gradient[i] += static_cast<float>(sums[static_cast<size_t>(i - begin)]);
    }
  });
}

}  // namespace evolora
