#include "weight_gradient.h"

#include <vector>

#include "ATen/Parallel.h"
#include "evolora/model/products.h"
#include "norm_gradient.h"

namespace evolora {
namespace {

// gradient_i += sum over rows of dy_i.
void AddColumnSums(const float* dy, int64_t ldy, int64_t rows, int64_t width, float* gradient) {
  at::parallel_for(0, width, 64, [&](int64_t begin, int64_t end) {
    std::vector<double> sums(static_cast<size_t>(end - begin));
    for (int64_t m = 0; m < rows; ++m) {
      for (int64_t i = begin; i < end; ++i) {
        sums[static_cast<size_t>(i - begin)] += static_cast<double>(dy[m * ldy + i]);
      }
    }
    for (int64_t i = begin; i < end; ++i) {
      gradient[i] += static_cast<float>(sums[static_cast<size_t>(i - begin)]);
    }
  });
}

}  // namespace

void AddWeightGradients(absl::Span<const at::Tensor> weights, const float* dy, int64_t ldy,
                        const float* x, int64_t rows) {
  for (const at::Tensor& weight : weights) {
    const int64_t out = weight.size(0), in = weight.size(1);
    if (float* gradient = GradientOf(weight)) {
      const Product product = {
          .left = dy, .ldl = ldy, .transposed = true, .depth = rows, .right = x, .ldr = in};
      SumOfProducts({product}, out, in, gradient, in, GemmStore::kAdd);
    }
    dy += out;
  }
}

void AddBiasGradients(absl::Span<const at::Tensor> biases, const float* dy, int64_t ldy,
                      int64_t rows) {
  for (const at::Tensor& bias : biases) {
    if (!bias.defined()) return;
    const int64_t width = bias.numel();
    if (float* gradient = GradientOf(bias)) AddColumnSums(dy, ldy, rows, width, gradient);
    dy += width;
  }
}

void ScaleUnit(const at::Tensor& weight, const float* unit, int64_t rows, float* y) {
  const int64_t width = weight.numel();
  const float* scale = weight.const_data_ptr<float>();
  at::parallel_for(0, rows, 8, [&](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m) {
      for (int64_t i = 0; i < width; ++i) y[m * width + i] = unit[m * width + i] * scale[i];
    }
  });
}

}  // namespace evolora
