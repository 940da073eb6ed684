#pragma once

#include <string>

#include "evolora/core/language_model.h"

namespace evolora {

// SHA-256 hex of everything a completion depends on: messages or ids, adapter, sampling (only
// "greedy" when the temperature is 0), max_new_tokens, stop. Two requests with one key get one
// answer from one model; used by the memo and by the gate's rule for identical requests.
std::string RequestKey(const GenerateRequest& request);

}  // namespace evolora
