#pragma once

#include <cstdint>
#include <vector>

#include "ATen/core/Tensor.h"
#include "absl/types/span.h"
#include "buffer.h"
#include "evolora/model/lora_tensors.h"
#include "evolora/model/packed_matrix.h"
#include "products.h"

namespace evolora {

// Frozen linear layers that read the same input, with their adapters: q, k and v are one group. The
// outputs stand side by side in a row of y.
//   low = scale * x A^T   (the A matrices stacked)      y = x W^T + low B^T
//   d_low = scale * dy B                                dx = dy W + d_low A
//   dA += d_low^T x                                     dB += dy^T low
// A part with magnitude m (DoRA) multiplies its outputs z = x W^T + low B^T by m / n, n the norms
// of the rows of W + scale B A, which take no gradient: dm += sum over rows of dy z / n, and dy m /
// n takes the place of dy in the formulas above.
class AdaptedGroup {
 public:
  struct Part {
    at::Tensor weight;                 // [out, in], fp32, contiguous
    const LoraTensor* lora = nullptr;  // null: not adapted; outlives the group
  };
  explicit AdaptedGroup(std::vector<Part> parts);

  // What Forward leaves for the gradients of the same rows.
  struct Kept {
    Buffer low;      // [rows, rank()]
    Buffer outputs;  // [rows, out] z of all parts, when a part has a magnitude
  };

  bool adapted() const { return rank_ > 0; }
  int64_t rank() const { return rank_; }  // of all parts together: the width of low
  int64_t in_features() const { return frozen_.in_features(); }
  int64_t out_features() const { return frozen_.out_features(); }

  // Takes over the adapters' present values: before the first Forward and after every update.
  void PackAdapters();

  // y [rows, out] = or += the group's outputs for x [rows, in]. Rows are contiguous.
  void Forward(const float* x, int64_t rows, float* y, GemmStore store, Kept& kept) const;

  // The gradient dz [rows, out] of the outputs before the magnitudes, from dy; adds to the
  // gradients of the magnitudes. Call it once: kept.outputs becomes dz. Without magnitudes it is dy
  // itself.
  const float* OutputGradient(const float* dy, int64_t rows, Kept& kept) const;
  // All of the following take that dz as `dy`.
  // d_low [rows, rank()] from dy [rows, out].
  void LowRankGradient(const float* dy, int64_t rows, float* d_low) const;
  // dx [rows, in] from dy and d_low.
  void InputGradient(const float* dy, const float* d_low, int64_t rows, float* dx) const;
  // Adds to the gradient tensors of the adapters (LoraTensor::a.grad(), b.grad()). The input was
  // x * column_scale (null: x). Uses `scratch`.
  void ParameterGradients(const float* x, const float* column_scale, const Kept& kept,
                          const float* dy, const float* d_low, int64_t rows, Buffer& scratch) const;

 private:
  struct AdaptedPart {
    at::Tensor weight;
    const LoraTensor* lora;
    int64_t out_offset;
    int64_t rank_offset;
    int64_t rank;
  };
  void PackA();
  void PackB();
  void PackMagnitudes();
  void RowNorms(const AdaptedPart& part, float* norms);

  std::vector<AdaptedPart> parts_;
  int64_t rank_ = 0;
  PackedMatrix frozen_;
  Buffer a_panels_;                   // of scale * A^T, [in, rank]
  Buffer b_panels_;                   // of B^T, [rank, out]: each part in its own rows and columns
  std::vector<float> factors_;        // [out] m / n, 1 without magnitude; empty: no part has one
  std::vector<float> norms_;          // [out] n
  Buffer sums_;                       // of rows of W + scale B A
  std::vector<DepthRange> b_ranges_;  // of each panel: the ranks of the parts it has columns of
};

}  // namespace evolora
