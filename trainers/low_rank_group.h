#pragma once

#include <cstdint>
#include <vector>

#include "ATen/core/Tensor.h"
#include "absl/types/span.h"
#include "adapter_dropout.h"
#include "evolora/model/buffer.h"
#include "evolora/model/lora_tensors.h"
#include "evolora/model/products.h"

namespace evolora {

// One adapter's part in a group of frozen linear layers that read the same input (formulas:
// adapted_group.h). All functions are about the rows that belong to the adapter: pointers are to
// the first of them, x is [rows, in], low [rows, rank()], y [rows, out], without gaps.
class LowRankGroup {
 public:
  struct Part {
    at::Tensor weight;  // [out, in], fp32, contiguous; read for magnitudes alone
    int64_t out = 0;
    const LoraTensor* lora = nullptr;  // null: not adapted; outlives the group
    uint64_t dropout_key = 0;          // AdapterDropout::ModuleKey
  };
  // `dropout` (null: none) outlives the group. REQUIRES: not with magnitudes.
  // `factors`: of all its products.
  LowRankGroup(const std::vector<Part>& parts, int64_t in, const AdapterDropout* dropout,
               Factors factors);

  int64_t rank() const { return rank_; }  // of all parts together; 0: nothing here is adapted
  bool has_magnitudes() const { return !factors_.empty(); }

  // Takes over the adapter's present values: before the first pass and after every update.
  void Pack();

  // `keys`: of the rows, for dropout; null: nothing is dropped.
  void LowRank(const float* x, int64_t rows, const uint64_t* keys, float* low,
               Buffer& scratch) const;
  // scale * low B^T as a term of a sum over all outputs.
  Product Up(const float* low) const;
  // y = or += z * factors; REQUIRES: has_magnitudes.
  void StoreOutputs(const float* z, int64_t rows, float* y, GemmStore store) const;

  // Adds to the gradients of the magnitudes and turns z into dz; REQUIRES: has_magnitudes.
  void OutputGradient(const float* dy, int64_t rows, float* z) const;
  void LowRankGradient(const float* dy, int64_t rows, float* d_low) const;
  // scale * d_low A as a term of a sum over all inputs; for an adapter whose features are not
  // dropped.
  Product InputTerm(const float* d_low) const;
  // dx += scale * f (d_low A).
  void AddMaskedInputGradient(const float* d_low, int64_t rows, const uint64_t* keys, float* dx,
                              Buffer& scratch) const;
  // Adds to the gradient tensors of the adapter. The input was x * column_scale (null: x).
  struct GradientInputs {
    const float* x = nullptr;
    const float* column_scale = nullptr;
    const uint64_t* keys = nullptr;
    const float* low = nullptr;
    const float* dy = nullptr;
    const float* d_low = nullptr;
    int64_t rows = 0;
  };
  void ParameterGradients(const GradientInputs& inputs, Buffer& scratch) const;

 private:
  struct AdaptedPart {
    at::Tensor weight;
    int64_t out;
    const LoraTensor* lora;
    int64_t out_offset;
    int64_t rank_offset;
    int64_t rank;
    int64_t a_column;  // in a_panels_: rank_offset, with dropout the first column of a panel
    uint64_t dropout_key;
    int64_t out_features() const { return out; }
    float scale() const { return static_cast<float>(lora->scale); }
  };
  void AddPart(const Part& part, int64_t& a_columns);
  void FindBRanges();
  void PackA(const AdaptedPart& part);
  void PackB(const AdaptedPart& part);
  void PackMagnitude(const AdaptedPart& part);
  void RowNorms(const AdaptedPart& part, float* norms);
  const float* Masked(const AdaptedPart& part, const float* x, int64_t rows, const uint64_t* keys,
                      float* room) const;
  // For products of which a side is `width` wide.
  Factors OfWidth(int64_t width) const { return FactorsOfWidth(product_factors_, width); }
  void AddGradientA(const GradientInputs& inputs, Buffer& scratch) const;

  const AdapterDropout* dropout_;
  const Factors product_factors_;   // of all products that are not narrow
  std::vector<AdaptedPart> parts_;  // those that are adapted
  int64_t in_ = 0;
  int64_t out_ = 0;  // of all parts of the group
  int64_t rank_ = 0;
  Buffer a_panels_;                   // of A^T, [in, a_columns]
  Buffer a_rows_;                     // scale * A, [rank, in]
  Buffer b_panels_;                   // of scale * B^T, [rank, out]: each part in its own place
  std::vector<float> factors_;        // [out] m / n, 1 without magnitude; empty: no part has one
  std::vector<float> norms_;          // [out] n
  Buffer sums_;                       // of rows of W + scale B A
  std::vector<DepthRange> b_ranges_;  // of each panel: the ranks of the parts it has columns of
};

}  // namespace evolora
