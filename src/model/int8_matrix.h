#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "ATen/core/Tensor.h"
#include "evolora/model/kernels.h"

namespace evolora {

// A frozen weight as int8 with one fp32 scale for 32 inputs of an output: 9 bits a weight, for
// decoding, which reads every weight for each token. scale = max |w| / 127 of its block, values
// rounded to nearest, ties to even. Panels as PackedMatrix has them, and its interface.
//
// Results are, bit for bit, those of a PackedMatrix over RoundToInt8(W).
class Int8Matrix {
 public:
  Int8Matrix() = default;
  // Parts as PackedMatrix takes them.
  explicit Int8Matrix(const std::vector<at::Tensor>& parts);

  void Apply(const float* x, int64_t ldx, int64_t rows, float* y, int64_t ldy) const;
  void ApplyAdd(const float* x, int64_t ldx, int64_t rows, float* y, int64_t ldy) const;
  void ApplyToMany(const float* x, int64_t ldx, int64_t rows, float* y, int64_t ldy,
                   GemmStore store) const {
    Run(x, ldx, rows, y, ldy, store == GemmStore::kAdd);
  }

 private:
  void Run(const float* x, int64_t ldx, int64_t rows, float* y, int64_t ldy, bool add) const;

  int64_t out_ = 0;
  int64_t in_ = 0;
  std::shared_ptr<const int8_t[]> values_;  // [ceil(out / 32)][in][32]
  std::shared_ptr<const float[]> scales_;   // [ceil(out / 32)][ceil(in / 32)][32]
};

// The fp32 values [out, in] that an Int8Matrix of W computes with.
at::Tensor RoundToInt8(const at::Tensor& weight);

}  // namespace evolora
