#include "exact_matrix.h"

#include <algorithm>
#include <atomic>
#include <cmath>

#include "evolora/model/buffer.h"
#include "evolora/model/products.h"
#include "evolora/model/share_out.h"

namespace evolora {
namespace {

constexpr int kMaxQ4 = 15, kMaxInt8 = 127;

struct Block {
  float scale = 0;
  float low = 0;
  int32_t values[kCompactBlock] = {};
};

// Whether `weights` are low + scale times whole numbers up to kMaxQ4; the widest steps that give
// them.
bool FitQ4(const float* weights, int64_t count, Block& block) {
  const auto [least, most] = std::minmax_element(weights, weights + count);
  block.low = *least;
  const float span = *most - *least;
  for (int steps = kMaxQ4; steps > 0; --steps) {
    block.scale = span / static_cast<float>(steps);
    const float inverse = span == 0 ? 0 : static_cast<float>(steps) / span;
    bool fits = true;
    for (int64_t i = 0; i < count; ++i) {
      block.values[i] = static_cast<int32_t>((weights[i] - block.low) * inverse + 0.5f);
      // Without rounding, so that it is the same fused and not.
      const double value = static_cast<double>(block.low) +
                           static_cast<double>(block.scale) * static_cast<double>(block.values[i]);
      fits = fits && value == static_cast<double>(weights[i]);
    }
    if (fits) return true;
  }
  return false;
}

// Whether they are scale times whole numbers up to kMaxInt8 either way.
bool FitInt8(const float* weights, int64_t count, Block& block) {
  float most = 0;
  for (int64_t i = 0; i < count; ++i) most = std::max(most, std::abs(weights[i]));
  block.scale = most / kMaxInt8;
  bool fits = true;
  for (int64_t i = 0; i < count; ++i) {
    const float value = most == 0 ? 0 : std::nearbyint(weights[i] / block.scale);
    block.values[i] = static_cast<int32_t>(value);
    fits = fits && value * block.scale == weights[i];
  }
  return fits;
}

// Row `row` of the stacked parts.
const float* RowOf(const std::vector<at::Tensor>& parts, int64_t row) {
  for (const at::Tensor& part : parts) {
    if (row < part.size(0)) return part.const_data_ptr<float>() + row * part.size(1);
    row -= part.size(0);
  }
  return nullptr;
}

}  // namespace

std::optional<ExactMatrix> ExactMatrix::Of(const std::vector<at::Tensor>& parts) {
  for (const Kind kind : {Kind::kQ4, Kind::kInt8}) {
    ExactMatrix matrix(parts, kind);
    std::atomic<bool> fits{true};
    ShareOut(matrix.num_panels(), 1, [&](int64_t begin, int64_t end) {
      for (int64_t p = begin; p < end && fits; ++p) {
        if (!matrix.TakePanel(p)) fits = false;
      }
    });
    if (fits) return matrix;
  }
  return std::nullopt;
}

ExactMatrix::ExactMatrix(const std::vector<at::Tensor>& parts, Kind kind)
    : parts_(parts), kind_(kind), in_(parts[0].size(1)) {
  for (const at::Tensor& part : parts) out_ += part.size(0);
  const int64_t num_scales = num_panels() * num_blocks() * kPanelColumns;
  values_.reset(new uint8_t[static_cast<size_t>(num_panels() * panel_values())]());
  scales_.reset(new float[static_cast<size_t>(num_scales)]());
  if (kind == Kind::kQ4) lows_.reset(new float[static_cast<size_t>(num_scales)]());
}

int64_t ExactMatrix::bytes() const {
  const int64_t floats = num_panels() * num_blocks() * kPanelColumns * (lows_ ? 2 : 1);
  return num_panels() * panel_values() + floats * static_cast<int64_t>(sizeof(float));
}

bool ExactMatrix::TakePanel(int64_t panel) {
  constexpr int64_t kHalf = kPanelColumns / 2;
  uint8_t* values = values_.get() + panel * panel_values();
  const int64_t columns = std::min(kPanelColumns, out_ - panel * kPanelColumns);
  for (int64_t j = 0; j < columns; ++j) {
    const float* row = RowOf(parts_, panel * kPanelColumns + j);
    for (int64_t b = 0; b < num_blocks(); ++b) {
      const int64_t begin = b * kCompactBlock, count = std::min(kCompactBlock, in_ - begin);
      const int64_t place = (panel * num_blocks() + b) * kPanelColumns + j;
      Block block;
      const bool fits = kind_ == Kind::kQ4 ? FitQ4(row + begin, count, block)
                                           : FitInt8(row + begin, count, block);
      if (!fits) return false;
      scales_[place] = block.scale;
      if (lows_) lows_[place] = block.low;
      for (int64_t k = 0; k < count; ++k) {
        const auto value = static_cast<uint8_t>(block.values[k]);
        if (kind_ == Kind::kInt8) {
          values[(begin + k) * kPanelColumns + j] = value;
        } else {
          values[(begin + k) * kHalf + j % kHalf] |=
              static_cast<uint8_t>(j < kHalf ? value : value << 4);
        }
      }
    }
  }
  // As the kernels round it.
  Buffer wide;
  Widen(panel, wide.Reserve(in_ * kPanelColumns));
  for (int64_t j = 0; j < columns; ++j) {
    const float* row = RowOf(parts_, panel * kPanelColumns + j);
    for (int64_t k = 0; k < in_; ++k) {
      if (wide.data()[k * kPanelColumns + j] != row[k]) return false;
    }
  }
  return true;
}

Q4Panel ExactMatrix::PanelOfQ4(int64_t panel) const {
  const int64_t first_scale = panel * num_blocks() * kPanelColumns;
  return {.values = values_.get() + panel * panel_values(),
          .scales = scales_.get() + first_scale,
          .lows = lows_.get() + first_scale};
}

Int8Panel ExactMatrix::PanelOfInt8(int64_t panel) const {
  return {.values = reinterpret_cast<const int8_t*>(values_.get()) + panel * panel_values(),
          .scales = scales_.get() + panel * num_blocks() * kPanelColumns};
}

void ExactMatrix::Widen(int64_t panel, float* out) const {
  if (kind_ == Kind::kQ4) {
    Kernels().widen_q4(PanelOfQ4(panel), in_, out);
  } else {
    Kernels().widen_int8(PanelOfInt8(panel), in_, out);
  }
}

void ExactMatrix::Multiply(int64_t panel, const GemmArgs& args) const {
  if (kind_ == Kind::kQ4) {
    Kernels().gemm_q4(args, PanelOfQ4(panel));
  } else {
    Kernels().gemm_int8(args, PanelOfInt8(panel));
  }
}

void ExactMatrix::Apply(const float* x, int64_t ldx, int64_t rows, float* y, int64_t ldy) const {
  Run(x, ldx, rows, y, ldy, GemmStore::kSet);
}

void ExactMatrix::ApplyAdd(const float* x, int64_t ldx, int64_t rows, float* y, int64_t ldy) const {
  Run(x, ldx, rows, y, ldy, GemmStore::kAdd);
}

void ExactMatrix::ApplyToMany(const float* x, int64_t ldx, int64_t rows, float* y, int64_t ldy,
                              GemmStore store) const {
  const Factors factors = FactorsOfWidth(Fp32Factors(), std::min(in_, out_));
  if (factors == Factors::kFp32) return Run(x, ldx, rows, y, ldy, store);
  std::vector<Product::Rows> weight_rows;
  for (const at::Tensor& part : parts_) {
    weight_rows.push_back({part.const_data_ptr<float>(), part.size(0)});
  }
  SumOfProducts({{.left = x, .ldl = ldx, .depth = in_, .weight_rows = weight_rows}}, rows, out_, y,
                ldy, store, factors);
}

void ExactMatrix::Run(const float* x, int64_t ldx, int64_t rows, float* y, int64_t ldy,
                      GemmStore store) const {
  // Below about 64k multiply-adds a task costs less than waking a thread.
  const int64_t work = std::max<int64_t>(1, rows * in_ * kPanelColumns);
  const int64_t grain = std::max<int64_t>(1, (int64_t{1} << 16) / work);
  ShareOut(num_panels(), grain, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      const int64_t first = p * kPanelColumns;
      const GemmTerm term = {.x = x, .ldx = ldx, .depth = in_};
      Multiply(p, {.terms = &term,
                   .rows = rows,
                   .y = y + first,
                   .ldy = ldy,
                   .columns = std::min(kPanelColumns, out_ - first),
                   .store = store});
    }
  });
}

}  // namespace evolora
