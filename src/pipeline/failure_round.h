#pragma once

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "run_state.h"

namespace evolora {

// Handles the failures of one window, in order: propose a candidate patch, probe until the
// signature is clear, diagnose, decide, and put the decision into the ledger, the pending patches
// or both. Cancelled: a stop was requested; no failure is begun after that.
absl::Status ConsiderFailures(RunState& run, absl::Span<const Solved> failures);

}  // namespace evolora
