#pragma once

#include <cstdint>

#include "absl/types/span.h"
#include "evolora/model/compact_weights.h"
#include "evolora/model/few_bits_matrix.h"
#include "evolora/model/products.h"

namespace evolora {

// Whether x W^T of a frozen weight W [out, in] runs over its panels (FewBitsMatrix for many rows)
// rather than as a term of SumOfProducts. On CPUs with AMX the 4- or 8-bit values of a block,
// scaled afterwards, take three products of parts, the numbers that they stand for five. (SmolLM2,
// two cores: as many tokens/s when they are alone, 1.05 (512 rows) to 1.2 times as many (185) when
// others use their AMX units.) dy W has no such way: there the scales lie along the sum.
bool MultipliesByPanels(const CompactShape& weight, Factors factors);

// Bytes of the panels of a base's matrices where that is so.
int64_t ForwardPanelBytes(absl::Span<const CompactShape> shapes, Factors factors);

}  // namespace evolora
