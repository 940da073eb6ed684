#include "forward_panels.h"

#include <algorithm>

namespace evolora {

int64_t ForwardPanelBytes(absl::Span<const CompactShape> shapes, Factors factors) {
  int64_t bytes = 0;
  for (const CompactShape& s : shapes) {
    if (MultipliesByPanels(s.form, FactorsOfWidth(factors, std::min(s.out, s.in)))) {
      bytes += FewBitsMatrix::BytesFor(s.form, s.out, s.in);
    }
  }
  return bytes;
}

}  // namespace evolora
