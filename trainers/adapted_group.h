#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "ATen/core/Tensor.h"
#include "absl/types/span.h"
#include "adapter_dropout.h"
#include "evolora/model/buffer.h"
#include "evolora/model/products.h"
#include "low_rank_group.h"

namespace evolora {

// Neighbouring rows of one adapter.
struct AdapterRun {
  int64_t slot = 0;
  int64_t first_row = 0;
  int64_t num_rows = 0;
  // Keys of these rows for dropout; null: nothing is dropped.
  const uint64_t* dropout_keys = nullptr;
};

// Frozen linear layers that read the same input, with any number of adapters: q, k and v are one
// group. The outputs stand side by side in a row of y. The frozen products run once over all rows,
// an adapter's over its own rows:
//   low = x A^T   (the A matrices stacked)      y = x W^T + scale * low B^T
//   d_low = dy B                                dx = dy W + scale * d_low A
//   dA += scale * d_low^T x                     dB += scale * dy^T low
// With dropout, the A of each part reads x with that part's own features dropped (x f): low =
// (x f) A^T, dA += scale * d_low^T (x f), dx = dy W + scale * f (d_low A).
// A part with magnitude m (DoRA) multiplies its outputs z = x W^T + scale * low B^T by m / n, n the
// norms of the rows of W + scale B A, which take no gradient: dm += sum over rows of dy z / n, and
// dy m / n takes the place of dy in the formulas above.
//
// Exact: what comes out for the rows of a run, and what is added to the gradients of its adapter,
// has the bits that it has without any other run.
class AdaptedGroup {
 public:
  // `weights` of the parts, [out, in], fp32, contiguous; read at every pass. `factors`: of all
  // products.
  explicit AdaptedGroup(std::vector<at::Tensor> weights, Factors factors = Fp32Factors());
  // Weights in few bits, stacked; it outlives the group, whose adapters have no magnitudes.
  // `part_outs`: outputs of each part.
  AdaptedGroup(std::vector<int64_t> part_outs, const CompactMatrix& compact,
               Factors factors = Fp32Factors());

  // An adapter for the parts (loras[i] of part i, null: not adapted), in a slot of its own.
  // `dropout` (null: none) and the tensors outlive its stay. REQUIRES: the slot is free.
  struct PartAdapter {
    const LoraTensor* lora = nullptr;
    uint64_t dropout_key = 0;  // AdapterDropout::ModuleKey
  };
  void Add(int64_t slot, absl::Span<const PartAdapter> adapters, const AdapterDropout* dropout);
  void Remove(int64_t slot);
  // Takes over the adapter's present values: before its first pass and after every update.
  void PackAdapter(int64_t slot);

  bool adapted(int64_t slot) const { return adapters_[static_cast<size_t>(slot)] != nullptr; }
  int64_t in_features() const { return in_; }
  int64_t out_features() const { return out_; }

  // What Forward leaves for the gradients of the same rows.
  struct Kept {
    // Set before Forward, outlive the gradients; ascending, every row in one run at most.
    absl::Span<const AdapterRun> runs;
    Buffer low;      // of each run [rows, rank]
    Buffer outputs;  // [rows, out] z of all parts, when a run's adapter has magnitudes
  };
  // Values of low, and of d_low, for these runs.
  int64_t LowSize(const Kept& kept) const;

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
  // d_low of all runs, LowSize values, from dy [rows, out].
  void LowRankGradient(const float* dy, const Kept& kept, float* d_low) const;
  // dx [rows, in] from dy and d_low.
  void InputGradient(const float* dy, const float* d_low, int64_t rows, const Kept& kept, float* dx,
                     Buffer& scratch) const;
  // Adds to the gradient tensors of the adapters (LoraTensor::a.grad(), b.grad()). The input was
  // x * column_scale (null: x).
  void ParameterGradients(const float* x, const float* column_scale, const Kept& kept,
                          const float* dy, const float* d_low, Buffer& scratch) const;

 private:
  // Calls body(adapter, run, where the run begins in low) for each run that is adapted here.
  template <typename Body>
  void ForRuns(const Kept& kept, const Body& body) const;
  bool HasMagnitudes(const Kept& kept) const;
  Product Frozen(const float* x) const;
  void ForwardWithMagnitudes(const float* x, int64_t rows, float* y, GemmStore store,
                             Kept& kept) const;

  std::vector<int64_t> part_outs_;
  int64_t in_ = 0, out_ = 0;
  Factors factors_;
  std::vector<at::Tensor> weights_;                      // empty beside compact_
  std::vector<Product::Rows> weight_rows_;               // theirs
  const CompactMatrix* compact_ = nullptr;               // null: the two above
  std::vector<std::unique_ptr<LowRankGroup>> adapters_;  // by slot; null: none, or nothing here
};

}  // namespace evolora
