#pragma once

#include <vector>

#include "evolora/evolver/decide.h"

namespace evolora {

// The masks of one failure that close text, weights or both. Their names and reasons: POLICY.md.
// `ticket` may be null.
std::vector<FiredMask> FailureMasks(const Diagnosis& diagnosis, const TicketSummary* ticket,
                                    const DecisionPolicy& policy);

// Whether `lever` is closed by one of `masks` ("schedule" closes nothing here).
bool IsClosed(Lever lever, const std::vector<FiredMask>& masks);

// Whether the failure's right answer may become a verified training example.
bool IsVerifiedExample(const Diagnosis& diagnosis);

}  // namespace evolora
