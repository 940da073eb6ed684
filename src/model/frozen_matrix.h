#pragma once

#include <utility>
#include <variant>
#include <vector>

#include "evolora/model/engine.h"
#include "evolora/model/packed_matrix.h"
#include "exact_matrix.h"
#include "int8_matrix.h"

namespace evolora {

// A frozen weight in the format that the engine keeps it in.
class FrozenMatrix {
 public:
  FrozenMatrix() = default;
  FrozenMatrix(const std::vector<at::Tensor>& parts, WeightFormat format) {
    if (std::optional<ExactMatrix> exact = ExactMatrix::Of(parts)) {
      matrix_ = *std::move(exact);
    } else if (format == WeightFormat::kInt8) {
      matrix_ = Int8Matrix(parts);
    } else {
      matrix_ = PackedMatrix(parts);
    }
  }

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
  std::variant<PackedMatrix, ExactMatrix, Int8Matrix> matrix_;
};

}  // namespace evolora
