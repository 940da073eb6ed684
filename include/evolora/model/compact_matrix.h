#pragma once

#include <cstdint>
#include <memory>

#include "ATen/core/Tensor.h"
#include "evolora/model/block_form.h"
#include "evolora/model/kernels.h"

namespace evolora {

// Bytes of a CompactMatrix [out, in].
int64_t CompactBytes(BlockForm form, int64_t out, int64_t in);

// A frozen weight W [out, in] in few bits, row by row, each row in blocks of 32 (the last filled
// up). One copy serves W x, dy W and the lookup of rows. Copies share the bytes.
// Threads: distinct rows may be stored at once, before the first read; reads may always.
class CompactMatrix {
 public:
  CompactMatrix() = default;
  // Zeros.
  CompactMatrix(BlockForm form, int64_t out, int64_t in);

  // Where the blocks of row `row` and of the next ones go, for loaders that have them.
  uint8_t* mutable_row(int64_t row) { return bytes_.get() + row * row_bytes_; }
  // Rounds `count` fp32 rows, row-major and contiguous, into rows [first, first + count). REQUIRES:
  // form is kBf16, kInt8 or kQ4; the others are for what needs no rounding.
  void StoreRows(int64_t first, int64_t count, const float* values);

  BlockForm form() const { return form_; }
  int64_t out_features() const { return out_; }
  int64_t in_features() const { return in_; }
  int64_t bytes() const { return out_ * row_bytes_; }
  // The rows, one behind the other, in blocks as in block_form.h.
  const uint8_t* data() const { return bytes_.get(); }
  const uint8_t* row(int64_t row) const { return bytes_.get() + row * row_bytes_; }

  // One row as fp32, [in].
  void WidenRow(int64_t row, float* values) const;
  // Rows [first, first + count) as a fp32 tensor [count, in].
  at::Tensor Widen(int64_t first, int64_t count) const;
  // Panels for products (kernels.h), as fp32. REQUIRES: first_in is a multiple of 32.
  //   W^T: inputs [first_in, first_in + count) by outputs [first_out, first_out + 32), zeros behind
  //   the last output
  void WidenTransposed(int64_t first_in, int64_t count, int64_t first_out, float* panel) const;
  //   W: outputs [first_out, first_out + count) by inputs [first_in, first_in + 32); behind the
  //   last input stand finite numbers
  void WidenPanel(int64_t first_out, int64_t count, int64_t first_in, float* panel) const;
  // The same two as panels of pairs (kernels.h), rounded to bf16, which kBf16's values are. An odd
  // count is filled up with finite numbers.
  void PairsTransposed(int64_t first_in, int64_t count, int64_t first_out, uint16_t* panel) const;
  void PairsPanel(int64_t first_out, int64_t count, int64_t first_in, uint16_t* panel) const;
  // The same two as one chunk of a panel of digits, count <= kDigitChunk, and its scales. REQUIRES:
  // GivesDigits.
  bool GivesDigits() const { return Kernels().Of(form_).digits.panel != nullptr; }
  void DigitsTransposed(int64_t first_in, int64_t count, int64_t first_out, int8_t* panel,
                        float* scales) const;
  void DigitsPanel(int64_t first_out, int64_t count, int64_t first_in, int8_t* panel,
                   float* scales) const;

 private:
  const uint8_t* Block(int64_t row, int64_t first_in) const {
    return bytes_.get() + row * row_bytes_ + first_in / kCompactBlock * block_bytes_;
  }

  BlockForm form_ = BlockForm::kBf16;
  int64_t out_ = 0;
  int64_t in_ = 0;
  int64_t block_bytes_ = 0;
  int64_t row_bytes_ = 0;
  std::shared_ptr<uint8_t[]> bytes_;
};

}  // namespace evolora
