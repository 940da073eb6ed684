#pragma once

#include "absl/status/status.h"

namespace evolora {

// Sets LibTorch's number of threads inside one operation to `num_threads` (1..1024) and between
// operations to 1. Call once, early in main(), before any tensor work; libraries never call it.
// Results may differ in the last bits between thread counts; for one count they repeat exactly.
// Errors: InvalidArgument num_threads out of range.
absl::Status InitTorch(int num_threads);

}  // namespace evolora
