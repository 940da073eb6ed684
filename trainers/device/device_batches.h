#pragma once

#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "token_layout.h"

namespace evolora {

// How many tokens the rows of a layout see, row by row: their own and those of all segments above.
// 0 when no segment is below another one.
int64_t SharedKeys(const TokenLayout& layout);

struct DeviceBatchLimits {
  int64_t tokens = 0;  // computed at once
  // What grows with the rows although the tokens that they share do not: attention reads a copy of
  // the keys of each row's whole path, and some losses have a row of logits for each label.
  int64_t copies() const { return 8 * tokens; }
};

// Cuts an optimiser step's rows into the device path's micro-batches, those of PackedMicroBatches
// (token_layout.h) halved until SharedKeys and labels are within the limit of copies, and lays them
// out. Arguments as there.
std::vector<TokenLayout> DeviceMicroBatches(absl::Span<const TrainingRow> rows,
                                            absl::Span<const int64_t> step_rows,
                                            const DeviceBatchLimits& limits, bool share_prefixes,
                                            int64_t group_size = 1);

}  // namespace evolora
