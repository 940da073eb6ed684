#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "evolora/model/kernels.h"
#include "product_steps.h"

namespace evolora {

// Both sides of products of fp32 factors by digits (kernels.h).

// The left sides: each value once, whatever the number of panels that it is multiplied with. Uses
// all threads. One object at a time in a thread: it works with memory that the thread keeps.
class DigitLefts {
 public:
  DigitLefts(absl::Span<const Product> products, int64_t rows);

  // As x of an Int8x3Term, from the product's first row on.
  struct Left {
    const int8_t* digits = nullptr;
    int64_t ld = 0;
    const float* scales = nullptr;
    int64_t ld_scales = 0;
  };
  const Left& Of(const Product& product) const { return lefts_[&product - products_.data()]; }

  // Bytes of rows [rows, depth].
  static int64_t Bytes(int64_t rows, int64_t depth);

 private:
  absl::Span<const Product> products_;
  std::vector<Left> lefts_;
};

// The right side of a slice, for one panel of y.
class DigitSide {
 public:
  using Term = Int8x3Term;
  using Args = Int8x3GemmArgs;
  using Value = int8_t;
  using Lefts = DigitLefts;
  // Depths are cut between chunks.
  static constexpr int64_t kUnit = kDigitChunk;
  // Both sides of so much stay in the second-level cache.
  static constexpr int64_t kDepthBlock = kMaxDepthBlock / 2;
  static constexpr int64_t kPanelsAtOnce = 10;
  static constexpr int64_t kRowsAtOnce = 128;
  // Bytes: the digits, then the scales.
  static constexpr int64_t RoomOf(int64_t depth) { return ScalesAt(depth) + BytesOfScales(depth); }
  static void Gemm(const Int8x3GemmArgs& args) { Kernels().gemm_int8x3(args); }

  // `room`: RoomOf the slice's depth, 64-byte aligned; holds the panel.
  DigitSide(const Slice& slice, const Tile& tile, int8_t* room);

  bool empty() const { return depth_.count <= 0; }

  // The product's rows [first_row, ..) of y.
  Int8x3Term TermOf(const DigitLefts& lefts, const Product& product, int64_t first_row,
                    int64_t rows) const;

 private:
  static constexpr int64_t StepsOf(int64_t depth) { return (depth + kDigitStep - 1) / kDigitStep; }
  static constexpr int64_t ScalesAt(int64_t depth) {
    return StepsOf(depth) * kDigitStep * kDigits * kPanelColumns;
  }
  static constexpr int64_t BytesOfScales(int64_t depth) {
    return (depth + kDigitChunk - 1) / kDigitChunk * kPanelColumns * int64_t{sizeof(float)};
  }

  DepthRange depth_;  // begins at a multiple of kDigitChunk
  const int8_t* panel_;
  const float* scales_ = nullptr;
};

}  // namespace evolora
