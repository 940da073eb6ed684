#include "few_bits_matrix.h"

#include <algorithm>

#include "c10/util/Half.h"
#include "evolora/model/products.h"
#include "evolora/model/share_out.h"

namespace evolora {
namespace {

float HalfToFloat(uint16_t bits) { return c10::Half(bits, c10::Half::from_bits()); }

template <typename Block>
const Block* BlocksOf(const CompactMatrix& weight, int64_t row) {
  return reinterpret_cast<const Block*>(weight.row(row));
}

// Row `row` of `weight` as column `column` of a panel, which is zeros.
void TakeBf16(const CompactMatrix& weight, int64_t row, int64_t column, uint16_t* values) {
  const uint16_t* from = BlocksOf<Bf16Weights>(weight, row)->values;
  for (int64_t k = 0; k < weight.in_features(); ++k) values[k * kPanelColumns + column] = from[k];
}

void TakeInt8(const CompactMatrix& weight, int64_t row, int64_t column, int8_t* values,
              float* scales) {
  const auto* blocks = BlocksOf<Int8Weights>(weight, row);
  for (int64_t first = 0; first < weight.in_features(); first += kCompactBlock) {
    const Int8Weights& block = blocks[first / kCompactBlock];
    scales[first + column] = block.scale;  // kCompactBlock of them a block, as kPanelColumns
    const int64_t count = std::min(kCompactBlock, weight.in_features() - first);
    for (int64_t k = 0; k < count; ++k) {
      values[(first + k) * kPanelColumns + column] = block.values[k];
    }
  }
}

void TakeQ4(const CompactMatrix& weight, int64_t row, int64_t column, uint8_t* values,
            float* scales, float* lows) {
  constexpr int64_t kHalf = kPanelColumns / 2;
  const auto* blocks = BlocksOf<Q4Weights>(weight, row);
  const int shift = column < kHalf ? 0 : 4;
  for (int64_t first = 0; first < weight.in_features(); first += kCompactBlock) {
    const Q4Weights& block = blocks[first / kCompactBlock];
    scales[first + column] = HalfToFloat(block.scale);
    lows[first + column] = HalfToFloat(block.low);
    const int64_t count = std::min(kCompactBlock, weight.in_features() - first);
    for (int64_t k = 0; k < count; ++k) {
      const uint8_t both = block.values[k % kHalf];
      const int value = k < kHalf ? both & 15 : both >> 4;
      values[(first + k) * kHalf + column % kHalf] |= static_cast<uint8_t>(value << shift);
    }
  }
}

}  // namespace

FewBitsMatrix::FewBitsMatrix(const CompactMatrix& weight)
    : storage_(weight.storage()), out_(weight.out_features()), in_(weight.in_features()) {
  if (FactorsOfWidth(Fp32Factors(), std::min(in_, out_)) != Factors::kFp32) weight_ = weight;
  const auto room = [&](int64_t of_panel) { return static_cast<size_t>(num_panels() * of_panel); };
  std::shared_ptr<uint8_t[]> values(new uint8_t[room(panel_bytes())]());
  std::shared_ptr<float[]> scales, lows;
  if (panel_scales() > 0) scales.reset(new float[room(panel_scales())]());
  if (storage_ == WeightStorage::kQ4) lows.reset(new float[room(panel_scales())]());
  ShareOut(num_panels(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      TakePanel(p, weight, values.get() + p * panel_bytes(), scales.get() + p * panel_scales(),
                lows.get() + p * panel_scales());
    }
  });
  values_ = std::move(values);
  scales_ = std::move(scales);
  lows_ = std::move(lows);
}

int64_t FewBitsMatrix::panel_bytes() const {
  const int64_t count = in_ * kPanelColumns;
  if (storage_ == WeightStorage::kBf16) return count * 2;
  return storage_ == WeightStorage::kQ4 ? count / 2 : count;
}

int64_t FewBitsMatrix::panel_scales() const {
  return storage_ == WeightStorage::kBf16 ? 0 : num_blocks() * kPanelColumns;
}

int64_t FewBitsMatrix::bytes() const {
  const int64_t floats = panel_scales() * (storage_ == WeightStorage::kQ4 ? 2 : 1);
  return num_panels() * (panel_bytes() + floats * static_cast<int64_t>(sizeof(float)));
}

void FewBitsMatrix::Apply(const float* x, int64_t ldx, int64_t rows, float* y, int64_t ldy) const {
  Run(x, ldx, rows, y, ldy, GemmStore::kSet);
}

void FewBitsMatrix::ApplyAdd(const float* x, int64_t ldx, int64_t rows, float* y,
                             int64_t ldy) const {
  Run(x, ldx, rows, y, ldy, GemmStore::kAdd);
}

void FewBitsMatrix::ApplyToMany(const float* x, int64_t ldx, int64_t rows, float* y, int64_t ldy,
                                GemmStore store) const {
  const Factors factors = FactorsOfWidth(Fp32Factors(), std::min(in_, out_));
  if (factors == Factors::kFp32) return Run(x, ldx, rows, y, ldy, store);
  SumOfProducts(
      {{.left = x, .ldl = ldx, .depth = in_, .weight = &weight_, .weight_transposed = true}}, rows,
      out_, y, ldy, store, factors);
}

void FewBitsMatrix::TakePanel(int64_t panel, const CompactMatrix& weight, uint8_t* values,
                              float* scales, float* lows) const {
  const int64_t first = panel * kPanelColumns;
  for (int64_t j = 0; j < std::min(kPanelColumns, out_ - first); ++j) {
    if (storage_ == WeightStorage::kBf16) {
      TakeBf16(weight, first + j, j, reinterpret_cast<uint16_t*>(values));
    } else if (storage_ == WeightStorage::kInt8) {
      TakeInt8(weight, first + j, j, reinterpret_cast<int8_t*>(values), scales);
    } else {
      TakeQ4(weight, first + j, j, values, scales, lows);
    }
  }
}

void FewBitsMatrix::Multiply(int64_t panel, const GemmArgs& args) const {
  const uint8_t* values = values_.get() + panel * panel_bytes();
  const float* scales = scales_.get() + panel * panel_scales();
  if (storage_ == WeightStorage::kBf16) {
    Kernels().gemm_bf16(args, {reinterpret_cast<const uint16_t*>(values)});
  } else if (storage_ == WeightStorage::kInt8) {
    Kernels().gemm_int8(args, {reinterpret_cast<const int8_t*>(values), scales});
  } else {
    Kernels().gemm_q4(args, {values, scales, lows_.get() + panel * panel_scales()});
  }
}

void FewBitsMatrix::Run(const float* x, int64_t ldx, int64_t rows, float* y, int64_t ldy,
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
