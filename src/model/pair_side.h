#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "evolora/model/kernels.h"
#include "product_steps.h"

namespace evolora {

// Left sides of products rounded to bf16. Each value once, whatever the number of panels that it is
// multiplied with. Uses all threads. One object at a time in a thread: it works with memory that
// the thread keeps.
class PairLefts {
 public:
  PairLefts(absl::Span<const Product> products, int64_t rows);

  // (m, k) of the product at data[m * ld + k]; zeros behind the depth up to a multiple of 32.
  struct Left {
    const uint16_t* data = nullptr;
    int64_t ld = 0;
  };
  const Left& Of(const Product& product) const { return lefts_[&product - products_.data()]; }

  // Bytes of rows [rows, depth].
  static int64_t Bytes(int64_t rows, int64_t depth);

 private:
  absl::Span<const Product> products_;
  std::vector<Left> lefts_;
};

// The right side of a slice, for one panel of y, rounded to bf16.
class PairSide {
 public:
  using Term = PairTerm;
  using Args = PairGemmArgs;
  using Value = uint16_t;
  using Lefts = PairLefts;
  static constexpr int64_t kUnit = kSliceUnit;
  static constexpr int64_t kDepthBlock = kMaxDepthBlock;
  static constexpr int64_t kPanelsAtOnce = 5;
  static constexpr int64_t kRowsAtOnce = 128;
  static constexpr int64_t RoomOf(int64_t depth) {
    return RoundUpToSliceUnit(depth) * kPanelColumns;
  }
  static void Gemm(const PairGemmArgs& args) { Kernels().gemm_pairs(args); }

  // `room`: RoomOf the slice's depth; holds the panel.
  PairSide(const Slice& slice, const Tile& tile, uint16_t* room);

  bool empty() const { return depth_.count <= 0; }

  // The product's rows [first_row, ..) of y.
  PairTerm TermOf(const Lefts& lefts, const Product& product, int64_t first_row,
                  int64_t rows) const;

 private:
  DepthRange depth_;  // begins at a multiple of kSliceUnit
  const uint16_t* panel_;
};

}  // namespace evolora
