#include "evolora/model/packed_matrix.h"

#include <algorithm>

#include "ATen/Parallel.h"
#include "c10/util/Exception.h"
#include "evolora/core/float_memory.h"
#include "evolora/model/kernels.h"

namespace evolora {
namespace {

// Rows of all parts as one table of pointers.
std::vector<const float*> RowPointers(const std::vector<at::Tensor>& parts) {
  std::vector<const float*> rows;
  for (const at::Tensor& part : parts) {
    TORCH_CHECK(part.dim() == 2 && part.scalar_type() == at::kFloat && part.is_contiguous() &&
                    part.size(1) == parts[0].size(1),
                "PackedMatrix: a part is not contiguous fp32 [out, in] with equal in");
    const float* data = part.const_data_ptr<float>();
    for (int64_t row = 0; row < part.size(0); ++row) rows.push_back(data + row * part.size(1));
  }
  return rows;
}

}  // namespace

PackedMatrix::PackedMatrix(const std::vector<at::Tensor>& parts, double scale) {
  const std::vector<const float*> rows = RowPointers(parts);
  out_ = static_cast<int64_t>(rows.size());
  in_ = parts[0].size(1);
  const int64_t num_panels = (out_ + kPanelColumns - 1) / kPanelColumns;
  const int64_t panel_size = in_ * kPanelColumns;
  std::shared_ptr<float[]> panels(AllocateFloats(num_panels * panel_size));
  const auto factor = static_cast<float>(scale);
  at::parallel_for(0, num_panels, 1, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      float* panel = panels.get() + p * panel_size;
      for (int64_t j = 0; j < kPanelColumns; ++j) {
        const int64_t row = p * kPanelColumns + j;
        const float* source = row < out_ ? rows[static_cast<size_t>(row)] : nullptr;
        for (int64_t k = 0; k < in_; ++k) {
          panel[k * kPanelColumns + j] = source != nullptr ? source[k] * factor : 0.0f;
        }
      }
    }
  });
  panels_ = std::move(panels);
}

void PackedMatrix::Apply(const float* x, int64_t ldx, int64_t rows, float* y, int64_t ldy) const {
  Run(x, ldx, rows, y, ldy, /*add=*/false);
}

void PackedMatrix::ApplyAdd(const float* x, int64_t ldx, int64_t rows, float* y,
                            int64_t ldy) const {
  Run(x, ldx, rows, y, ldy, /*add=*/true);
}

void PackedMatrix::Run(const float* x, int64_t ldx, int64_t rows, float* y, int64_t ldy,
                       bool add) const {
  const KernelTable& kernels = Kernels();
  const int64_t num_panels = (out_ + kPanelColumns - 1) / kPanelColumns;
  // Below about 64k multiply-adds a task costs less than waking a thread.
  const int64_t work = std::max<int64_t>(1, rows * in_ * kPanelColumns);
  const int64_t grain = std::max<int64_t>(1, (int64_t{1} << 16) / work);
  at::parallel_for(0, num_panels, grain, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      const int64_t first = p * kPanelColumns;
      const float* panel = panels_.get() + p * in_ * kPanelColumns;
      const GemmTerm term = {.x = x,
                             .ldx = ldx,
                             .panel = panel,
                             .depth = in_,
                             .next = p + 1 < end ? panel + in_ * kPanelColumns : nullptr};
      kernels.gemm({.terms = &term,
                    .rows = rows,
                    .y = y + first,
                    .ldy = ldy,
                    .columns = std::min(kPanelColumns, out_ - first),
                    .store = add ? GemmStore::kAdd : GemmStore::kSet});
    }
  });
}

}  // namespace evolora
