#include "evolora/model/packed_matrix.h"

#include <algorithm>

#include "ATen/Parallel.h"
#include "c10/util/Exception.h"
#include "evolora/core/float_memory.h"
#include "evolora/model/kernels.h"
#include "evolora/model/products.h"
#include "evolora/model/share_out.h"

namespace evolora {
namespace {

void CheckParts(const std::vector<at::Tensor>& parts) {
  for (const at::Tensor& part : parts) {
    TORCH_CHECK(part.dim() == 2 && part.scalar_type() == at::kFloat && part.is_contiguous() &&
                    part.size(1) == parts[0].size(1),
                "PackedMatrix: a part is not contiguous fp32 [out, in] with equal in");
  }
}

// Rows [first, first + 32) of the stacked parts as columns of a panel [in, 32], zeros behind the
// last.
void PackPanel(const std::vector<at::Tensor>& parts, int64_t first, float factor, float* panel) {
  const int64_t in = parts[0].size(1);
  int64_t begin = 0, columns = 0;
  for (const at::Tensor& part : parts) {
    const int64_t from = std::max(first, begin);
    const int64_t to = std::min(first + kPanelColumns, begin + part.size(0));
    if (from < to) {
      Kernels().transpose(part.const_data_ptr<float>() + (from - begin) * in, in, to - from, in,
                          factor, panel + (from - first), kPanelColumns);
      columns = to - first;
    }
    begin += part.size(0);
  }
  for (int64_t k = 0; columns < kPanelColumns && k < in; ++k) {
    float* row = panel + k * kPanelColumns;
    std::fill(row + columns, row + kPanelColumns, 0.0f);
  }
}

}  // namespace

PackedMatrix::PackedMatrix(const std::vector<at::Tensor>& parts, double scale) {
  CheckParts(parts);
  for (const at::Tensor& part : parts) out_ += part.size(0);
  in_ = parts[0].size(1);
  const int64_t num_panels = (out_ + kPanelColumns - 1) / kPanelColumns;
  const int64_t panel_size = in_ * kPanelColumns;
  std::shared_ptr<float[]> panels(AllocateFloats(num_panels * panel_size));
  at::parallel_for(0, num_panels, 1, [&](int64_t begin, int64_t end) {
    for (int64_t p = begin; p < end; ++p) {
      PackPanel(parts, p * kPanelColumns, static_cast<float>(scale), panels.get() + p * panel_size);
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

void PackedMatrix::ApplyToMany(const float* x, int64_t ldx, int64_t rows, float* y, int64_t ldy,
                               GemmStore store) const {
  const Factors factors = FactorsOfWidth(Fp32Factors(), std::min(in_, out_));
  if (factors == Factors::kFp32) return Run(x, ldx, rows, y, ldy, store == GemmStore::kAdd);
  SumOfProducts({{.left = x, .ldl = ldx, .depth = in_, .right = panels_.get()}}, rows, out_, y, ldy,
                store, factors);
}

void PackedMatrix::Run(const float* x, int64_t ldx, int64_t rows, float* y, int64_t ldy,
                       bool add) const {
  const KernelTable& kernels = Kernels();
  const int64_t num_panels = (out_ + kPanelColumns - 1) / kPanelColumns;
  // Below about 64k multiply-adds a task costs less than waking a thread.
  const int64_t work = std::max<int64_t>(1, rows * in_ * kPanelColumns);
  const int64_t grain = std::max<int64_t>(1, (int64_t{1} << 16) / work);
  ShareOut(num_panels, grain, [&](int64_t begin, int64_t end) {
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
