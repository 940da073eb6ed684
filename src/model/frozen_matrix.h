#pragma once

#include <variant>
#include <vector>

#include "evolora/model/compact_matrix.h"
#include "evolora/model/engine.h"
#include "evolora/model/packed_matrix.h"
#include "few_bits_matrix.h"

namespace evolora {

struct FrozenOptions {
  WeightFormat format = WeightFormat::kFp32;
  RowsOfSteps rows = RowsOfSteps::kFew;
};

// A frozen weight in the format that the engine keeps it in. Copies share the memory.
class FrozenMatrix {
 public:
  FrozenMatrix() = default;
  // Parts as PackedMatrix takes them.
  FrozenMatrix(const std::vector<at::Tensor>& parts, const FrozenOptions& options);
  // Kept as it is, but 16 bits rounded to int8 where the options say so.
  FrozenMatrix(const CompactMatrix& weight, const FrozenOptions& options);

  void Apply(const float* x, int64_t ldx, int64_t rows, float* y, int64_t ldy) const {
    std::visit([&](const auto& m) { m.Apply(x, ldx, rows, y, ldy); }, matrix_);
  }
  void ApplyAdd(const float* x, int64_t ldx, int64_t rows, float* y, int64_t ldy) const {
    std::visit([&](const auto& m) { m.ApplyAdd(x, ldx, rows, y, ldy); }, matrix_);
  }
  // As PackedMatrix.
  void ApplyToMany(const float* x, int64_t ldx, int64_t rows, float* y, int64_t ldy,
                   GemmStore store) const {
    std::visit([&](const auto& m) { m.ApplyToMany(x, ldx, rows, y, ldy, store); }, matrix_);
  }

 private:
  std::variant<PackedMatrix, FewBitsMatrix> matrix_;
};

}  // namespace evolora
