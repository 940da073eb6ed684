#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/types/span.h"
#include "evolora/model/kernels.h"
#include "product_steps.h"

namespace evolora {

// The left sides of products, rounded to bf16: each value once, whatever the number of panels that
// it is multiplied with. Uses all threads.
class RoundedLefts {
 public:
  RoundedLefts(absl::Span<const Product> products, int64_t rows);

  // (m, k) of the product at data[m * ld + k]; zeros behind an odd depth.
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
  std::unique_ptr<uint16_t[]> values_;
};

// The right side of a slice, for one panel of y, rounded to bf16.
class PairSide {
 public:
  using Term = PairTerm;
  using Args = PairGemmArgs;
  using Value = uint16_t;
  using Lefts = RoundedLefts;
  static int64_t RoomOf(int64_t depth) { return (depth + 1) / 2 * 2 * kPanelColumns; }
  static void Gemm(const PairGemmArgs& args) { Kernels().gemm_pairs(args); }

  // `room`: RoomOf the slice's depth; holds the panel.
  PairSide(const Slice& slice, const Tile& tile, uint16_t* room);

  bool empty() const { return depth_.count <= 0; }

  // The product's rows [first_row, ..) of y.
  PairTerm TermOf(const RoundedLefts& lefts, const Product& product, int64_t first_row,
                  int64_t rows) const;

 private:
  DepthRange depth_;  // begins at an even place
  const uint16_t* panel_;
};

}  // namespace evolora
