#include "few_bits_matrix.h"

#include <algorithm>

#include "ATen/Parallel.h"
#include "absl/types/span.h"
#include "evolora/adapters/dequantize.h"
#include "evolora/model/buffer.h"
#include "evolora/model/products.h"
#include "evolora/model/share_out.h"
#include "split_left.h"

namespace evolora {
namespace {

// As many as gemm_split multiplies a block of rows with at once.
constexpr int64_t kPanelsOfSplit = 4;
constexpr int64_t kRowsOfSplit = 64;

int64_t BitsOfValue(BlockForm form) {
  switch (form) {
    case BlockForm::kBf16:
    case BlockForm::kF16:
      return 16;
    case BlockForm::kInt8:
    case BlockForm::kInt8Low:
      return 8;
    case BlockForm::kQ4:
    case BlockForm::kQ4Float:
      return 4;
  }
  return 0;
}

// Of a column.
int64_t ScalesOfBlock(BlockForm form) {
  if (form == BlockForm::kBf16 || form == BlockForm::kF16) return 0;
  return form == BlockForm::kInt8Low ? 2 : 1;
}

bool HasLows(BlockForm form) { return ScalesOfBlock(form) > 0 && form != BlockForm::kInt8; }

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

FewBitsMatrix::FewBitsMatrix(const CompactMatrix& weight, RowsOfSteps rows)
    : form_(weight.form()),
      out_(weight.out_features()),
      in_(weight.in_features()),
      splits_(rows == RowsOfSteps::kMany && Kernels().Of(form_).gemm_split != nullptr) {
  if (FactorsOfMany() != Factors::kFp32) weight_ = weight;
  panels_ = std::make_shared<const PanelMemory>(PanelsOf(weight));
}

PanelMemory FewBitsMatrix::PanelsOf(const CompactMatrix& weight) const {
  const auto room = [&](int64_t of_panel) { return static_cast<size_t>(num_panels() * of_panel); };
  PanelMemory memory;
  memory.values.reset(new uint8_t[room(panel_bytes())]());
  if (panel_scales() > 0) memory.scales.reset(new float[room(panel_scales())]());
  if (has_lows()) memory.lows.reset(new float[room(panel_scales())]());
  ShareOut(num_panels(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) TakePanel(p, weight, memory);
  });
  return memory;
}

int64_t FewBitsMatrix::panel_bytes() const {
  return num_blocks() * kCompactBlock * kPanelColumns * BitsOfValue(form_) / 8;
}

int64_t FewBitsMatrix::panel_scales() const {
  return ScalesOfBlock(form_) * num_blocks() * kPanelColumns;
}

bool FewBitsMatrix::has_lows() const { return HasLows(form_); }

int64_t FewBitsMatrix::bytes() const { return BytesFor(form_, out_, in_); }

int64_t FewBitsMatrix::BytesFor(BlockForm form, int64_t out, int64_t in) {
  const int64_t num_blocks = (in + kCompactBlock - 1) / kCompactBlock;
  const int64_t num_columns = (out + kPanelColumns - 1) / kPanelColumns * kPanelColumns;
  const int64_t floats = ScalesOfBlock(form) * (HasLows(form) ? 2 : 1);
  return num_blocks * num_columns *
         (kCompactBlock * BitsOfValue(form) / 8 + floats * static_cast<int64_t>(sizeof(float)));
}

void FewBitsMatrix::Apply(const float* x, int64_t ldx, int64_t rows, float* y, int64_t ldy) const {
  Run(x, ldx, rows, y, ldy, GemmStore::kSet);
}

void FewBitsMatrix::ApplyAdd(const float* x, int64_t ldx, int64_t rows, float* y,
                             int64_t ldy) const {
  Run(x, ldx, rows, y, ldy, GemmStore::kAdd);
}

Factors FewBitsMatrix::FactorsOfMany() const {
  return splits_ ? Factors::kFp32 : FactorsOfWidth(Fp32Factors(), std::min(in_, out_));
}

void FewBitsMatrix::ApplyToMany(const float* x, int64_t ldx, int64_t rows, float* y, int64_t ldy,
                                GemmStore store) const {
  const Factors factors = FactorsOfMany();
  if (factors == Factors::kFp32) return Run(x, ldx, rows, y, ldy, store);
  SumOfProducts(
      {{.left = x, .ldl = ldx, .depth = in_, .weight = &weight_, .weight_transposed = true}}, rows,
      out_, y, ldy, store, factors);
}

void FewBitsMatrix::TakePanel(int64_t panel, const CompactMatrix& weight,
                              const PanelMemory& memory) const {
  const int64_t first = panel * kPanelColumns, per_block = ScalesOfBlock(form_);
  uint8_t* values = memory.values.get() + panel * panel_bytes();
  float* scales = memory.scales.get() + panel * panel_scales();
  float* lows = has_lows() ? memory.lows.get() + panel * panel_scales() : nullptr;
  for (int64_t j = 0; j < std::min(kPanelColumns, out_ - first); ++j) {
    const Scales own = {scales + j, lows != nullptr ? lows + j : nullptr};
    switch (form_) {
      case BlockForm::kBf16:
      case BlockForm::kF16:
        TakeHalves(weight, first + j, j, reinterpret_cast<uint16_t*>(values));
        break;
      case BlockForm::kInt8:
        TakeBlocks<Int8Weights, 8>(weight, first + j, j, values, own, per_block);
        break;
      case BlockForm::kInt8Low:
        TakeBlocks<Int8LowWeights, 8>(weight, first + j, j, values, own, per_block);
        break;
      case BlockForm::kQ4:
        TakeBlocks<Q4Weights, 4>(weight, first + j, j, values, own, per_block);
        break;
      case BlockForm::kQ4Float:
        TakeBlocks<Q4FloatWeights, 4>(weight, first + j, j, values, own, per_block);
        break;
    }
  }
}

FewBitsPanel FewBitsMatrix::PanelAt(int64_t panel) const {
  const int64_t first_scale = panel * panel_scales();
  return {.values = panels_->values.get() + panel * panel_bytes(),
          .scales = panels_->scales.get() + first_scale,
          .lows = has_lows() ? panels_->lows.get() + first_scale : nullptr};
}

void FewBitsMatrix::Run(const float* x, int64_t ldx, int64_t rows, float* y, int64_t ldy,
                        GemmStore store) const {
  splits_ ? RunSplit(x, ldx, rows, y, ldy, store) : RunPanels(x, ldx, rows, y, ldy, store);
}

void FewBitsMatrix::RunSplit(const float* x, int64_t ldx, int64_t rows, float* y, int64_t ldy,
                             GemmStore store) const {
  const SplitLeft left(x, ldx, rows, in_, has_lows());
  const auto gemm = Kernels().Of(form_).gemm_split;
  // As many groups for each thread, and about as many panels for each group.
  const int64_t threads = at::get_num_threads();
  const int64_t most = (num_panels() + kPanelsOfSplit - 1) / kPanelsOfSplit;
  const int64_t groups = std::min(num_panels(), (most + threads - 1) / threads * threads);
  // Rows by blocks, whose parts stay in the second-level cache for all panels.
  const int64_t row_blocks = (rows + kRowsOfSplit - 1) / kRowsOfSplit;
  ShareOut(row_blocks * groups, 1, [&](int64_t begin, int64_t end) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t row = task / groups * kRowsOfSplit, group = task % groups;
      const int64_t first = group * num_panels() / groups;
      const int64_t count = (group + 1) * num_panels() / groups - first;
      FewBitsPanel panels[kPanelsOfSplit];
      for (int64_t i = 0; i < count; ++i) panels[i] = PanelAt(first + i);
      const int64_t column = first * kPanelColumns;
      gemm({.x = left.From(row),
            .rows = std::min(kRowsOfSplit, rows - row),
            .y = y + row * ldy + column,
            .ldy = ldy,
            .columns = std::min(count * kPanelColumns, out_ - column),
            .store = store},
           panels);
    }
  });
}

void FewBitsMatrix::RunPanels(const float* x, int64_t ldx, int64_t rows, float* y, int64_t ldy,
                              GemmStore store) const {
  // Below about 64k multiply-adds a task costs less than waking a thread.
  const int64_t work = std::max<int64_t>(1, rows * in_ * kPanelColumns);
  const int64_t grain = std::max<int64_t>(1, (int64_t{1} << 16) / work);
  const auto gemm = Kernels().Of(form_).gemm;
  ShareOut(num_panels(), grain, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      const int64_t first = p * kPanelColumns;
      const GemmTerm term = {.x = x, .ldx = ldx, .depth = in_};
      gemm({.terms = &term,
            .rows = rows,
            .y = y + first,
            .ldy = ldy,
            .columns = std::min(kPanelColumns, out_ - first),
            .store = store},
           PanelAt(p));
    }
  });
}

}  // namespace evolora
