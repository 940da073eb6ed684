#pragma once

#include <cstdint>
#include <memory>

#include "ATen/core/Tensor.h"
#include "absl/types/span.h"
#include "evolora/trainers/process_group.h"
#include "gradient_path.h"

namespace evolora {

// The rows of an optimiser step that one rank computes: a run of neighbours, so that rows with a
// common prefix stay together; the ranks' shares differ by one row at most.
absl::Span<const int64_t> ShareOf(absl::Span<const int64_t> step_rows, int rank, int size);

// A path over the ranks of a group: each computes its share of the rows by `inner`, then `gradient`
// (the flat buffer that `inner` adds to, fp32, on any device) and the loss are summed over the
// ranks. The same bits on every rank; up to the order of sums what one process computes.
// Frozen passes are not shared out: every rank runs all of them.
// REQUIRES in AddGradient: the gradient is zero, and every rank calls with the same rows.
// Unavailable: another rank is lost.
std::unique_ptr<GradientPath> MakeSharedPath(std::unique_ptr<GradientPath> inner,
                                             at::Tensor gradient, ProcessGroup& group);

}  // namespace evolora
