#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/types/span.h"

namespace evolora {

// Refuses training on what the gate measures: FailedPrecondition when a training text equals a
// protected text after normalisation (case, white space, punctuation), or when the two share at
// least `near_duplicate` of their word 3-grams (Jaccard index). The message names both by index and
// quotes the first words. Texts are the last user turns: a shared system prompt is no leak.
absl::Status CheckNoLeak(absl::Span<const std::string> training_texts,
                         absl::Span<const std::string> protected_texts,
                         double near_duplicate = 0.9);

}  // namespace evolora
