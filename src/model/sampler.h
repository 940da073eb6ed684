#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "evolora/core/language_model.h"
#include "evolora/core/random.h"

namespace evolora {

// InvalidArgument: temperature negative or not finite, top_p outside (0, 1], top_k negative.
absl::Status CheckSampling(const Sampling& sampling);

// Picks the next token of one row. Temperature 0: the largest logit, the lowest id among equals.
// Otherwise logits / temperature, then the top_k largest, then the smallest set of them whose
// probability reaches top_p, then one draw from `random`. REQUIRES: n >= 1, finite logits.
TokenId SampleToken(const float* logits, int64_t n, const Sampling& sampling, Random& random);

}  // namespace evolora
