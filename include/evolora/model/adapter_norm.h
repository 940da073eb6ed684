#pragma once

#include "absl/status/statusor.h"
#include "evolora/adapters/lora_adapter.h"

namespace evolora {

struct LlamaWeights;

// The greatest relative size of the adapter's updates: max over its modules of
// ||W' - W||_F / ||W||_F, W' = W + scale B A or, with a magnitude, that with its rows scaled, or
// the saved weight that replaces W. Without magnitude B A is not formed: ||B A||_F^2 = <A A^T, B^T
// B>. Errors: InvalidArgument a module does not fit the base.
absl::StatusOr<double> MaxRelativeNorm(const LlamaWeights& weights, const LoraAdapter& adapter);

}  // namespace evolora
