#pragma once

#include "absl/status/status.h"
#include "run_state.h"

namespace evolora {

// Trains while the ledger says so (TrainWhen), one adapter at a time, and has the gate judge each.
// `stream_remaining`: requests still to come.
absl::Status TrainDueTickets(RunState& run, int64_t stream_remaining);

}  // namespace evolora
