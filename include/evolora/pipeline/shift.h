#pragma once

#include <functional>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "evolora/core/language_model.h"

namespace evolora {

// Mean over the request pairs of KL(before || after) in nats, of the distribution of the first
// answer token: exact, one position per request. Pairs of equal requests contribute zero without a
// model call. 0 for no pairs. Errors: those of LanguageModel; Internal logits that are not finite.
absl::StatusOr<double> MeanFirstTokenKl(LanguageModel& model,
                                        absl::Span<const GenerateRequest> before,
                                        absl::Span<const GenerateRequest> after);

// KL(p || q) of two softmax distributions given by logits of one length.
double KlOfLogits(absl::Span<const float> p_logits, absl::Span<const float> q_logits);

}  // namespace evolora
