#pragma once

#include <optional>
#include <string>

#include "evolora/evolver/probe.h"

namespace evolora {

// The decision tree over probe rates, walked by NextProbe (plan) and Diagnose (final) alike, so
// that the plan stops exactly where the diagnosis is clear.

enum class WalkMode {
  kPlan,   // stops at the first rate that is not yet clear and names it in `need`
  kFinal,  // takes every rate as it stands
};

struct ProbeNeed {
  ProbeKind kind = ProbeKind::kGold;
  ProbeTarget target = ProbeTarget::kOriginal;
};

struct Signature {
  FailureClass failure_class = FailureClass::kUndetermined;
  bool inherited = false;
  std::optional<ProbeNeed> need;  // set in kPlan only: measure this first
  double confidence = 0;
  std::string why;
};

Signature WalkSignature(const ProbeTable& table, const ProbeContext& context,
                        const ProbePolicy& policy, WalkMode mode);

// Trials that a kind takes before its level is read, and at most.
struct TrialRange {
  int64_t first = 0;
  int64_t most = 0;
};
TrialRange TrialsFor(const ProbeNeed& need, const ProbeContext& context, const ProbePolicy& policy);

}  // namespace evolora
