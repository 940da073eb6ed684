#include "frozen_matrix.h"

#include "ATen/Parallel.h"

namespace evolora {
namespace {

// Rows of fp32 tensors, stacked.
CompactMatrix RoundToInt8(const std::vector<at::Tensor>& parts) {
  int64_t out = 0;
  for (const at::Tensor& part : parts) out += part.size(0);
  CompactMatrix rounded(BlockForm::kInt8, out, parts[0].size(1));
  int64_t first = 0;
  for (const at::Tensor& part : parts) {
    const float* values = part.const_data_ptr<float>();
    at::parallel_for(0, part.size(0), kPanelColumns, [&](int64_t begin, int64_t end) {
      rounded.StoreRows(first + begin, end - begin, values + begin * part.size(1));
    });
    first += part.size(0);
  }
  return rounded;
}

}  // namespace

FrozenMatrix::FrozenMatrix(const std::vector<at::Tensor>& parts, const FrozenOptions& options) {
  if (options.format == WeightFormat::kInt8) {
    matrix_ = FewBitsMatrix(RoundToInt8(parts), options.rows);
  } else {
    matrix_ = PackedMatrix(parts);
  }
}

FrozenMatrix::FrozenMatrix(const CompactMatrix& weight, const FrozenOptions& options) {
  const bool is_half = weight.form() == BlockForm::kBf16 || weight.form() == BlockForm::kF16;
  const bool rounds = options.format == WeightFormat::kInt8 && is_half;
  matrix_ = FewBitsMatrix(rounds ? RoundToInt8({weight.Widen(0, weight.out_features())}) : weight,
                          options.rows);
}

}  // namespace evolora
