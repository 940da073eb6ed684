#pragma once

#include <cstdint>

#include "absl/types/span.h"
#include "evolora/model/kernels.h"
#include "product_steps.h"

namespace evolora {

// The columns of a panel that a weight's rows give, zeros behind the last.
void TransposeRows(const Slice& slice, const Tile& tile, float* panel);
// The same, or those of a weight in few bits, whichever the product has.
void WidenRight(const Slice& slice, const Tile& tile, float* panel);

// Where the right side of a slice is, for one panel of y, with fp32 factors.
class RightSide {
 public:
  using Term = GemmTerm;
  using Args = GemmArgs;
  using Value = float;
  // The left sides are read where they lie.
  struct Lefts {
    Lefts(absl::Span<const Product> /*products*/, int64_t /*rows*/) {}
    static int64_t Bytes(int64_t /*rows*/, int64_t /*depth*/) { return 0; }
  };
  static constexpr int64_t kUnit = kSliceUnit;
  static constexpr int64_t kDepthBlock = kMaxDepthBlock;
  static constexpr int64_t kPanelsAtOnce = 1;
  static constexpr int64_t kRowsAtOnce = Product::kAllRows;
  static constexpr int64_t RoomOf(int64_t depth) { return depth * kPanelColumns; }
  static void Gemm(const GemmArgs& args) { Kernels().gemm(args); }

  // `room`: RoomOf the slice's depth, for a copy.
  RightSide(const Slice& slice, const Tile& tile, float* room);

  bool empty() const { return depth_.count <= 0; }

  // The product's rows [first_row, first_row + rows) of y. From its second use on it may be a copy
  // that the first one makes.
  GemmTerm TermOf(const Lefts& lefts, const Product& product, int64_t first_row, int64_t rows);

 private:
  void UsePanels(const Product& product, int64_t panel);
  void UseMatrix(const Product& product, const Tile& tile, float* room);

  DepthRange depth_;
  const float* panel_ = nullptr;
  int64_t ldp_ = kPanelColumns;
  float* copy_ = nullptr;  // not yet made
  const float* next_ = nullptr;
};

}  // namespace evolora
