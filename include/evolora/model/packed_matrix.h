#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "ATen/core/Tensor.h"
#include "evolora/model/kernels.h"

namespace evolora {

// A frozen weight W [out, in] laid out for y = W x on the CPU: panels of 32 outputs, each [in, 32].
// Immutable; may be shared by threads. Costs out * in floats beside the tensor it was made from.
//
// Every output value is one sum over `in` in ascending order, whatever the number of rows, the
// position of the row and the number of threads: equal rows give equal bits. (Measured, 2 cores
// with AVX-512, against LibTorch's at::linear on W: 1.4x at 1 row, 2.2x at 4, equal to 1.5x from 16
// on.)
class PackedMatrix {
 public:
  PackedMatrix() = default;
  // Rows of the parts, stacked: one matrix for q, k and v, which read the same x. Parts are fp32
  // CPU [out_i, in] with equal `in`; each is multiplied by `scale`. Throws as LibTorch does.
  explicit PackedMatrix(const std::vector<at::Tensor>& parts, double scale = 1);

  int64_t out_features() const { return out_; }
  int64_t in_features() const { return in_; }
  // [ceil(out / 32)][in][32]: column j of panel p is output 32 p + j, zeros behind the last.
  const float* panels() const { return panels_.get(); }

  // y[m, :] = W x[m, :] for m < rows. Strides in floats; ldx >= in, ldy >= out. x and y are
  // distinct.
  void Apply(const float* x, int64_t ldx, int64_t rows, float* y, int64_t ldy) const;
  // y[m, :] += W x[m, :].
  void ApplyAdd(const float* x, int64_t ldx, int64_t rows, float* y, int64_t ldy) const;
  // Either of the two in the way that is faster for many rows. Equal rows give equal bits here,
  // too, but on some CPUs not those of the two.
  void ApplyToMany(const float* x, int64_t ldx, int64_t rows, float* y, int64_t ldy,
                   GemmStore store) const;

 private:
  void Run(const float* x, int64_t ldx, int64_t rows, float* y, int64_t ldy, bool add) const;

  int64_t out_ = 0;
  int64_t in_ = 0;
  std::shared_ptr<const float[]> panels_;  // [ceil(out / 32)][in][32], zero columns at the end
};

}  // namespace evolora
