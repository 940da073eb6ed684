#include "few_bits_matrix.h"

#include <algorithm>

#include "c10/util/Half.h"
#include "evolora/model/products.h"
#include "evolora/model/share_out.h"

namespace evolora {
namespace {

float HalfToFloat(uint16_t bits) { return c10::Half(bits, c10::Half::from_bits()); }

// A value of a block, of those with bits of their own.
uint8_t ValueOf(const Int8Weights& block, int64_t k) {
  return static_cast<uint8_t>(block.values[k]);
}
uint8_t ValueOf(const Int8LowWeights& block, int64_t k) {
  return static_cast<uint8_t>(block.values[k]);
}
uint8_t ValueOf(const auto& q4, int64_t k) {
  constexpr int64_t kHalf = kCompactBlock / 2;
  return k < kHalf ? q4.values[k] & 15 : q4.values[k - kHalf] >> 4;
}

// One column of a panel's scales and lows, which get those of a block.
struct Scales {
  float* scales;
  float* lows;

  void Take(const Int8Weights& block) const { *scales = block.scale; }
  void Take(const Int8LowWeights& block) const {
    for (int i = 0; i < 2; ++i) {
      scales[i * kPanelColumns] = block.scale[i];
      lows[i * kPanelColumns] = block.low[i];
    }
  }
  void Take(const Q4Weights& block) const {
    *scales = HalfToFloat(block.scale);
    *lows = HalfToFloat(block.low);
  }
  void Take(const Q4FloatWeights& block) const {
    *scales = block.scale;
    *lows = block.low;
  }
};

template <typename Block>
const Block* BlocksOf(const CompactMatrix& weight, int64_t row) {
  return reinterpret_cast<const Block*>(weight.row(row));
}

// Row `row` of `weight`, of 16 bits, as column `column` of a panel.
void TakeHalves(const CompactMatrix& weight, int64_t row, int64_t column, uint16_t* values) {
  const uint16_t* from = BlocksOf<F16Weights>(weight, row)->values;
  for (int64_t k = 0; k < weight.in_features(); ++k) values[k * kPanelColumns + column] = from[k];
}

// Of kBits and scales; the panel is zeros. scales: `column`'s.
template <typename Block, int kBits>
void TakeBlocks(const CompactMatrix& weight, int64_t row, int64_t column, uint8_t* values,
                Scales scales, int64_t scales_per_block) {
  constexpr int64_t kRow = kPanelColumns * kBits / 8;
  const auto* block = BlocksOf<Block>(weight, row);
  const int shift = column < kRow ? 0 : kBits;  // of 4 bits the high half
  for (int64_t first = 0; first < weight.in_features(); first += kCompactBlock, ++block) {
    scales.Take(*block);
    scales.scales += scales_per_block * kPanelColumns;
    if (scales.lows != nullptr) scales.lows += scales_per_block * kPanelColumns;
    const int64_t count = std::min(kCompactBlock, weight.in_features() - first);
    for (int64_t k = 0; k < count; ++k) {
      values[(first + k) * kRow + column % kRow] |=
          static_cast<uint8_t>(ValueOf(*block, k) << shift);
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
  if (has_lows()) lows.reset(new float[room(panel_scales())]());
  ShareOut(num_panels(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      TakePanel(p, weight, values.get() + p * panel_bytes(), scales.get() + p * panel_scales(),
                has_lows() ? lows.get() + p * panel_scales() : nullptr);
    }
  });
  values_ = std::move(values);
  scales_ = std::move(scales);
  lows_ = std::move(lows);
}

int64_t FewBitsMatrix::panel_bytes() const {
  const int64_t count = in_ * kPanelColumns;
  switch (storage_) {
    case WeightStorage::kInt8:
    case WeightStorage::kInt8Low:
      return count;
    case WeightStorage::kQ4:
    case WeightStorage::kQ4Float:
      return count / 2;
    default:
      return count * 2;
  }
}

int64_t FewBitsMatrix::scales_per_block() const {
  switch (storage_) {
    case WeightStorage::kInt8Low:
      return 2;
    case WeightStorage::kBf16:
    case WeightStorage::kF16:
      return 0;
    default:
      return 1;
  }
}

bool FewBitsMatrix::has_lows() const {
  return scales_per_block() > 0 && storage_ != WeightStorage::kInt8;
}

int64_t FewBitsMatrix::panel_scales() const {
  return scales_per_block() * ((in_ + kCompactBlock - 1) / kCompactBlock) * kPanelColumns;
}

int64_t FewBitsMatrix::bytes() const {
  const int64_t floats = panel_scales() * (has_lows() ? 2 : 1);
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
  const int64_t first = panel * kPanelColumns, per_block = scales_per_block();
  for (int64_t j = 0; j < std::min(kPanelColumns, out_ - first); ++j) {
    const Scales own = {scales + j, lows != nullptr ? lows + j : nullptr};
    switch (storage_) {
      case WeightStorage::kInt8:
        TakeBlocks<Int8Weights, 8>(weight, first + j, j, values, own, per_block);
        break;
      case WeightStorage::kInt8Low:
        TakeBlocks<Int8LowWeights, 8>(weight, first + j, j, values, own, per_block);
        break;
      case WeightStorage::kQ4:
        TakeBlocks<Q4Weights, 4>(weight, first + j, j, values, own, per_block);
        break;
      case WeightStorage::kQ4Float:
        TakeBlocks<Q4FloatWeights, 4>(weight, first + j, j, values, own, per_block);
        break;
      default:
        TakeHalves(weight, first + j, j, reinterpret_cast<uint16_t*>(values));
    }
  }
}

void FewBitsMatrix::Multiply(int64_t panel, const GemmArgs& args) const {
  const uint8_t* values = values_.get() + panel * panel_bytes();
  const float* scales = scales_.get() + panel * panel_scales();
  const float* lows = lows_.get() + (has_lows() ? panel * panel_scales() : 0);
  const auto* bytes = reinterpret_cast<const int8_t*>(values);
  const auto* halves = reinterpret_cast<const uint16_t*>(values);
  switch (storage_) {
    case WeightStorage::kInt8:
      return Kernels().gemm_int8(args, {bytes, scales});
    case WeightStorage::kInt8Low:
      return Kernels().gemm_int8_low(args, {bytes, scales, lows});
    case WeightStorage::kQ4:
    case WeightStorage::kQ4Float:
      return Kernels().gemm_q4(args, {values, scales, lows});
    case WeightStorage::kF16:
      return Kernels().gemm_f16(args, {halves});
    default:
      return Kernels().gemm_bf16(args, {halves});
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
