#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "evolora/trainers/training_data.h"

namespace evolora {

// Refuses training on what the gate measures: FailedPrecondition when a training text equals a
// protected text after normalisation (case, white space, punctuation), or when the two share at
// least `near_duplicate` of their word 3-grams (Jaccard index). The message names up to five such
// pairs by index, with the share, the limit and the first words, and counts the others. Texts are
// the last user turns: a shared system prompt is no leak.
absl::Status CheckNoLeak(absl::Span<const std::string> training_texts,
                         absl::Span<const std::string> protected_texts,
                         double near_duplicate = 0.9);

// The same for the texts of rows, replayed ones too, named by their lines. A row without text (one
// of ids) cannot be compared: CountRowsWithoutText says how many those are.
absl::Status CheckRowsLeakNothing(absl::Span<const TrainingRow> rows,
                                  absl::Span<const std::string> protected_texts,
                                  double near_duplicate = 0.9);
int64_t CountRowsWithoutText(absl::Span<const TrainingRow> rows);

}  // namespace evolora
