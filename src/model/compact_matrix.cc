#include "evolora/model/compact_matrix.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "ATen/Functions.h"
#include "c10/util/BFloat16.h"
#include "c10/util/Exception.h"
#include "c10/util/Half.h"

namespace evolora {
namespace {

constexpr int64_t kBlock = kCompactBlock;
constexpr float kLargestHalf = 65504.0f;

int64_t RoundUp(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

void Round(const float* values, Bf16Weights& block) {
  for (int64_t i = 0; i < kBlock; ++i) block.values[i] = c10::BFloat16(values[i]).x;
}

void Round(const float* values, Int8Weights& block) {
  float largest = 0;
  for (int64_t i = 0; i < kBlock; ++i) largest = std::max(largest, std::abs(values[i]));
  block.scale = largest / 127;
  for (int64_t i = 0; i < kBlock; ++i) {
    const float value = block.scale == 0 ? 0 : std::nearbyint(values[i] / block.scale);
    block.values[i] = static_cast<int8_t>(std::clamp(value, -127.0f, 127.0f));
  }
}

float ToHalf(float value, uint16_t& bits) {
  const c10::Half half(std::clamp(value, -kLargestHalf, kLargestHalf));
  bits = half.x;
  return static_cast<float>(half);
}

void Round(const float* values, Q4Weights& block) {
  const auto [least, greatest] = std::minmax_element(values, values + kBlock);
  const float low = ToHalf(*least, block.low);
  const float scale = ToHalf((*greatest - *least) / 15, block.scale);
  uint8_t rounded[kBlock];
  for (int64_t i = 0; i < kBlock; ++i) {
    const float value = scale == 0 ? 0 : std::nearbyint((values[i] - low) / scale);
    rounded[i] = static_cast<uint8_t>(std::clamp(value, 0.0f, 15.0f));
  }
  for (int64_t i = 0; i < kBlock / 2; ++i) {
    block.values[i] = static_cast<uint8_t>(rounded[i] | rounded[i + kBlock / 2] << 4);
  }
}

// One row; the last block is filled up with its last value, which widens no block's range.
template <typename Block>
void RoundRow(const float* values, int64_t count, uint8_t* row) {
  for (int64_t first = 0; first < count; first += kBlock) {
    float part[kBlock];
    const int64_t have = std::min(kBlock, count - first);
    std::copy_n(values + first, have, part);
    std::fill(part + have, part + kBlock, part[have - 1]);
    Block block;
    Round(part, block);
    std::memcpy(row + first / kBlock * static_cast<int64_t>(sizeof block), &block, sizeof block);
  }
}

}  // namespace

const char* BlockFormName(BlockForm form) {
  switch (form) {
    case BlockForm::kBf16:
      return "bf16";
    case BlockForm::kF16:
      return "f16";
    case BlockForm::kInt8:
      return "int8";
    case BlockForm::kInt8Low:
      return "int8-low";
    case BlockForm::kQ4:
      return "q4";
    case BlockForm::kQ4Float:
      return "q4-float";
  }
  return "";
}

int64_t CompactBytes(BlockForm form, int64_t out, int64_t in) {
  return out * (RoundUp(in, kBlock) / kBlock) * BlockBytes(form);
}

CompactMatrix::CompactMatrix(BlockForm form, int64_t out, int64_t in)
    : form_(form),
      out_(out),
      in_(in),
      block_bytes_(BlockBytes(form)),
      row_bytes_(CompactBytes(form, 1, in)),
      bytes_(new uint8_t[static_cast<size_t>(out * row_bytes_)]()) {}

void CompactMatrix::StoreRows(int64_t first, int64_t count, const float* values) {
  for (int64_t i = 0; i < count; ++i) {
    uint8_t* row = bytes_.get() + (first + i) * row_bytes_;
    const float* from = values + i * in_;
    if (form_ == BlockForm::kBf16) RoundRow<Bf16Weights>(from, in_, row);
    if (form_ == BlockForm::kInt8) RoundRow<Int8Weights>(from, in_, row);
    if (form_ == BlockForm::kQ4) RoundRow<Q4Weights>(from, in_, row);
  }
}

void CompactMatrix::WidenPanel(int64_t first_out, int64_t count, int64_t first_in,
                               float* panel) const {
  Kernels().Of(form_).widen(Block(first_out, first_in), row_bytes_, count, panel);
}

void CompactMatrix::WidenTransposed(int64_t first_in, int64_t count, int64_t first_out,
                                    float* panel) const {
  const int64_t num_rows = std::min(kPanelColumns, out_ - first_out);
  if (num_rows < kPanelColumns) std::fill_n(panel, count * kPanelColumns, 0.0f);
  for (int64_t k = 0; k < count; k += kBlock) {
    alignas(64) float square[kPanelColumns * kBlock];  // in the first-level cache
    WidenPanel(first_out, num_rows, first_in + k, square);
    Kernels().transpose(square, kBlock, num_rows, std::min(kBlock, count - k), 1,
                        panel + k * kPanelColumns, kPanelColumns);
  }
}

void CompactMatrix::PairsTransposed(int64_t first_in, int64_t count, int64_t first_out,
                                    uint16_t* panel) const {
  if (form_ == BlockForm::kBf16) {
    const auto* rows = reinterpret_cast<const uint16_t*>(Block(first_out, first_in));
    return Kernels().transpose_pairs(
        rows, row_bytes_ / 2, std::min(kPanelColumns, out_ - first_out), (count + 1) / 2, panel);
  }
  for (int64_t k = 0; k < count; k += kBlock) {
    alignas(64) float wide[kBlock * kPanelColumns];
    const int64_t part = std::min(kBlock, count - k);
    WidenTransposed(first_in + k, part, first_out, wide);
    Kernels().round_pairs(wide, kPanelColumns, part, kPanelColumns, panel + k * kPanelColumns);
  }
}

void CompactMatrix::PairsPanel(int64_t first_out, int64_t count, int64_t first_in,
                               uint16_t* panel) const {
  if (form_ == BlockForm::kBf16) {
    const auto* rows = reinterpret_cast<const uint16_t*>(Block(first_out, first_in));
    return Kernels().join_pairs(rows, row_bytes_ / 2, count, panel);
  }
  for (int64_t k = 0; k < count; k += kBlock) {
    alignas(64) float wide[kBlock * kPanelColumns];
    const int64_t part = std::min(kBlock, count - k);
    WidenPanel(first_out + k, part, first_in, wide);
    Kernels().round_pairs(wide, kPanelColumns, part, kPanelColumns, panel + k * kPanelColumns);
  }
}

void CompactMatrix::DigitsTransposed(int64_t first_in, int64_t count, int64_t first_out,
                                     int8_t* panel, float* scales) const {
  const int64_t rows = std::min(kPanelColumns, out_ - first_out);
  Kernels().Of(form_).digits.transposed(Block(first_out, first_in), row_bytes_, rows, count, panel,
                                        scales);
}

void CompactMatrix::DigitsPanel(int64_t first_out, int64_t count, int64_t first_in, int8_t* panel,
                                float* scales) const {
  Kernels().Of(form_).digits.panel(Block(first_out, first_in), row_bytes_, count, panel, scales);
}

void CompactMatrix::WidenRow(int64_t row, float* values) const {
  for (int64_t k = 0; k < in_; k += kBlock) {
    alignas(64) float block[kBlock];
    WidenPanel(row, 1, k, block);
    std::copy_n(block, std::min(kBlock, in_ - k), values + k);
  }
}

at::Tensor CompactMatrix::Widen(int64_t first, int64_t count) const {
  at::Tensor wide = at::empty({count, in_}, at::kFloat);
  float* values = wide.mutable_data_ptr<float>();
  for (int64_t i = 0; i < count; ++i) WidenRow(first + i, values + i * in_);
  return wide;
}

}  // namespace evolora
