#pragma once

#include <cstdint>
#include <vector>

#include "ATen/core/Tensor.h"
#include "absl/types/span.h"
#include "adapter_dropout.h"
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
// With dropout, the A of each part reads x with that part's own features dropped (x f): low =
// scale * (x f) A^T, dA += d_low^T (x f), dx = dy W + f (d_low A).
// A part with magnitude m (DoRA) multiplies its outputs z = x W^T + low B^T by m / n, n the norms
// of the rows of W + scale B A, which take no gradient: dm += sum over rows of dy z / n, and dy m /
// n takes the place of dy in the formulas above.
class AdaptedGroup {
 public:
  struct Part {
    at::Tensor weight;                 // [out, in], fp32, contiguous
    const LoraTensor* lora = nullptr;  // null: not adapted; outlives the group
    uint64_t dropout_key = 0;          // AdapterDropout::ModuleKey
  };
  // `dropout` (null: none) outlives the group. REQUIRES: not with magnitudes.
  explicit AdaptedGroup(std::vector<Part> parts, const AdapterDropout* dropout = nullptr);

  // What Forward leaves for the gradients of the same rows.
  struct Kept {
    // The rows' keys for dropout: set before Forward, outlives the gradients. Null: nothing is
    // dropped.
    const uint64_t* dropout_keys = nullptr;
    Buffer low;      // [rows, rank()]
    Buffer outputs;  // [rows, out] z of all parts, when a part has a magnitude
  };

  bool adapted() const { return rank_ > 0; }
  int64_t rank() const { return rank_; }  // of all parts together: the width of low
  int64_t in_features() const { return frozen_.in_features(); }
  int64_t out_features() const { return frozen_.out_features(); }

  // Takes over the adapters' present values: before the first Forward and after every update.
  void PackAdapters();

  // y [rows, out] = or += the group's outputs for x [rows, in]. Rows are contiguous. Uses
  // `scratch`, as the others do.
  void Forward(const float* x, int64_t rows, float* y, GemmStore store, Kept& kept,
               Buffer& scratch) const;

  // The same without the adapters.
  void ForwardBare(const float* x, int64_t rows, float* y, GemmStore store) const;

  // The gradient dz [rows, out] of the outputs before the magnitudes, from dy; adds to the
  // gradients of the magnitudes. Call it once: kept.outputs becomes dz. Without magnitudes it is dy
  // itself.
  const float* OutputGradient(const float* dy, int64_t rows, Kept& kept) const;
  // All of the following take that dz as `dy`.
  // d_low [rows, rank()] from dy [rows, out].
  void LowRankGradient(const float* dy, int64_t rows, float* d_low) const;
  // dx [rows, in] from dy and d_low.
  void InputGradient(const float* dy, const float* d_low, int64_t rows, const Kept& kept, float* dx,
                     Buffer& scratch) const;
  // Adds to the gradient tensors of the adapters (LoraTensor::a.grad(), b.grad()). The input was
  // x * column_scale (null: x).
  void ParameterGradients(const float* x, const float* column_scale, const Kept& kept,
                          const float* dy, const float* d_low, int64_t rows, Buffer& scratch) const;

 private:
  struct AdaptedPart {
    at::Tensor weight;
    const LoraTensor* lora;
    int64_t out_offset;
    int64_t rank_offset;
    int64_t rank;
    int64_t a_column;  // in a_panels_: rank_offset, with dropout the first column of a panel
    uint64_t dropout_key;
  };
  void PackA();
  void PackB();
  void PackMagnitudes();
  void LowRank(const float* x, int64_t rows, Kept& kept, Buffer& scratch) const;
  const float* Masked(const AdaptedPart& part, const float* x, int64_t rows, const Kept& kept,
                      float* room) const;
  void AddMaskedInputGradient(const AdaptedPart& part, const float* d_low, int64_t rows,
                              const Kept& kept, float* dx, Buffer& scratch) const;
  void AddGradientA(const float* x, const float* column_scale, const Kept& kept, const float* d_low,
                    int64_t rows, Buffer& scratch) const;
  void RowNorms(const AdaptedPart& part, float* norms);

  const AdapterDropout* dropout_;
  std::vector<AdaptedPart> parts_;
  int64_t rank_ = 0;
  PackedMatrix frozen_;
  Buffer a_panels_;                   // of scale * A^T, [in, a_columns]
  Buffer b_panels_;                   // of B^T, [rank, out]: each part in its own rows and columns
  std::vector<float> factors_;        // [out] m / n, 1 without magnitude; empty: no part has one
  std::vector<float> norms_;          // [out] n
  Buffer sums_;                       // of rows of W + scale B A
  std::vector<DepthRange> b_ranges_;  // of each panel: the ranks of the parts it has columns of
};

}  // namespace evolora
