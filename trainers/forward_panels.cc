#include "forward_panels.h"

#include <algorithm>

namespace evolora {

bool MultipliesByPanels(const CompactShape& weight, Factors factors) {
  const bool is_rounded = weight.form != BlockForm::kBf16 && weight.form != BlockForm::kF16;
  return is_rounded && Kernels().Of(weight.form).gemm_split != nullptr &&
         FactorsOfWidth(factors, std::min(weight.out, weight.in)) == Factors::kBf16x3;
}

int64_t ForwardPanelBytes(absl::Span<const CompactShape> shapes, Factors factors) {
  int64_t bytes = 0;
  for (const CompactShape& s : shapes) {
    if (MultipliesByPanels(s, factors)) {
      bytes += FewBitsMatrix::BytesFor(s.form, s.out, s.in);
    }
  }
  return bytes;
}

}  // namespace evolora
