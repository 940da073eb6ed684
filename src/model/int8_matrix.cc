#include "int8_matrix.h"

#include <algorithm>
#include <cmath>

#include "ATen/Functions.h"
#include "ATen/Parallel.h"
#include "evolora/model/kernels.h"
#include "evolora/model/share_out.h"

namespace evolora {
namespace {

// Scale and rounded values of up to 32 weights.
float RoundBlock(const float* weights, int64_t count, int8_t* values) {
  float largest = 0;
  for (int64_t i = 0; i < count; ++i) largest = std::max(largest, std::abs(weights[i]));
  const float scale = largest / 127;
  for (int64_t i = 0; i < count; ++i) {
    const float value = scale == 0 ? 0 : std::nearbyint(weights[i] / scale);
    values[i] = static_cast<int8_t>(std::clamp(value, -127.0f, 127.0f));
  }
  return scale;
}

}  // namespace

Int8Matrix::Int8Matrix(const std::vector<at::Tensor>& parts) {
  const at::Tensor weight = at::cat(parts).contiguous();
  out_ = weight.size(0);
  in_ = weight.size(1);
  const int64_t num_panels = (out_ + kPanelColumns - 1) / kPanelColumns;
  const int64_t num_blocks = (in_ + kInt8Block - 1) / kInt8Block;
  const auto num_values = static_cast<size_t>(num_panels * in_ * kPanelColumns);
  const auto num_scales = static_cast<size_t>(num_panels * num_blocks * kPanelColumns);
  std::shared_ptr<int8_t[]> values(new int8_t[num_values]());
  std::shared_ptr<float[]> scales(new float[num_scales]());
  const float* data = weight.const_data_ptr<float>();
  at::parallel_for(0, out_, kPanelColumns, [&](int64_t first, int64_t last) {
    int8_t rounded[kInt8Block];
    for (int64_t row = first; row < last; ++row) {
      const int64_t panel = row / kPanelColumns;
      const int64_t column = row % kPanelColumns;
      for (int64_t block = 0; block < num_blocks; ++block) {
        const int64_t begin = block * kInt8Block;
        const int64_t count = std::min(kInt8Block, in_ - begin);
        scales[(panel * num_blocks + block) * kPanelColumns + column] =
            RoundBlock(data + row * in_ + begin, count, rounded);
        for (int64_t k = 0; k < count; ++k) {
          values[(panel * in_ + begin + k) * kPanelColumns + column] = rounded[k];
        }
      }
    }
  });
  values_ = std::move(values);
  scales_ = std::move(scales);
}

void Int8Matrix::Apply(const float* x, int64_t ldx, int64_t rows, float* y, int64_t ldy) const {
  Run(x, ldx, rows, y, ldy, /*add=*/false);
}

void Int8Matrix::ApplyAdd(const float* x, int64_t ldx, int64_t rows, float* y, int64_t ldy) const {
  Run(x, ldx, rows, y, ldy, /*add=*/true);
}

void Int8Matrix::Run(const float* x, int64_t ldx, int64_t rows, float* y, int64_t ldy,
                     bool add) const {
  const KernelTable& kernels = Kernels();
  const int64_t num_panels = (out_ + kPanelColumns - 1) / kPanelColumns;
  const int64_t num_blocks = (in_ + kInt8Block - 1) / kInt8Block;
  const int64_t work = std::max<int64_t>(1, rows * in_ * kPanelColumns);
  const int64_t grain = std::max<int64_t>(1, (int64_t{1} << 16) / work);
  ShareOut(num_panels, grain, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      const int64_t first = p * kPanelColumns;
      const Int8Panel panel{values_.get() + p * in_ * kPanelColumns,
                            scales_.get() + p * num_blocks * kPanelColumns};
      const GemmTerm term = {.x = x, .ldx = ldx, .depth = in_};
      kernels.gemm_int8({.terms = &term,
                         .rows = rows,
                         .y = y + first,
                         .ldy = ldy,
                         .columns = std::min(kPanelColumns, out_ - first),
                         .store = add ? GemmStore::kAdd : GemmStore::kSet},
                        panel);
    }
  });
}

at::Tensor RoundToInt8(const at::Tensor& weight) {
  at::Tensor out = weight.contiguous().clone();
  float* data = out.data_ptr<float>();
  const int64_t in = out.size(1);
  int8_t rounded[kInt8Block];
  for (int64_t row = 0; row < out.size(0); ++row) {
    for (int64_t begin = 0; begin < in; begin += kInt8Block) {
      float* block = data + row * in + begin;
      const int64_t count = std::min(kInt8Block, in - begin);
      const float scale = RoundBlock(block, count, rounded);
      for (int64_t k = 0; k < count; ++k) block[k] = static_cast<float>(rounded[k]) * scale;
    }
  }
  return out;
}

}  // namespace evolora
