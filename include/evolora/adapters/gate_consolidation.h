#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "evolora/adapters/gate.h"
#include "evolora/core/json.h"

namespace evolora {

// Consolidation moves what patches teach from the context into an adapter. It is judged by the full
// 2x2 of {adapter off/on} x {patches off/on}, because the two levers interact: an adapter may help
// only beside the patches, or only without them.

// The four outcomes of one case.
struct FactorialOutcome {
  std::string case_id;  // unique over query and anchor
  std::string cluster;
  bool neither = false;
  bool patches_only = false;  // the champion
  bool adapter_only = false;
  bool both = false;
};

enum class ConsolidationAction {
  kRetirePatches,  // adapter alone replaces the patches
  kKeepBoth,       // adapter beside the patches
  kKeepPatches,    // the adapter is proven worse
  kInconclusive,
};
const char* ConsolidationActionName(ConsolidationAction action);

// Mean gain of `to` over `from` with always-valid one-sided bounds of level alpha each.
struct Contrast {
  int64_t pairs = 0;
  int64_t wins = 0;    // only `to` right
  int64_t losses = 0;  // only `from` right
  double estimate = 0;
  double lower = -1;
  double upper = 1;
};

// Right answers per cell, and the contrasts the judgement uses.
struct FactorialEvidence {
  int64_t pairs = 0;
  int64_t neither = 0;
  int64_t patches_only = 0;
  int64_t adapter_only = 0;
  int64_t both = 0;
  Contrast adapter_vs_nothing;  // adapter_only over neither: do the weights know it
  Contrast adapter_vs_patches;  // adapter_only over patches_only: may the patches go
  Contrast both_vs_patches;     // both over patches_only: does the adapter add
  Contrast both_vs_adapter;     // both over adapter_only: do the patches still add
  // (both - adapter_only) - (patches_only - neither), a mean in [-2, 2]: < 0 means the levers
  // overlap.
  double interaction = 0;
};

struct ConsolidationVerdict {
  ConsolidationAction action = ConsolidationAction::kInconclusive;
  std::string reason;
  FactorialEvidence query;
  FactorialEvidence anchor;
  GatePolicy policy;
};

// First rule that holds, with delta = policy.anchor_delta and bounds of level policy.alpha:
//   retire patches  query: adapter_vs_nothing lower > min_gain, adapter_vs_patches lower > -delta,
//                   and both_vs_adapter not proven > min_gain; anchor: adapter_vs_patches lower >
//                   -delta
//   keep both       query: both_vs_patches lower > min_gain; anchor: both_vs_patches lower > -delta
//   keep patches    proven harm with and without the patches: each of both_vs_patches and
//                   adapter_vs_patches has query upper < -delta or anchor upper < -delta
//   inconclusive    otherwise, or fewer than min_query_pairs query cases
// All pairs are used; the bounds are valid at any stopping point, so the caller may stop early.
// Errors: InvalidArgument  empty or repeated case id, invalid policy
absl::StatusOr<ConsolidationVerdict> JudgeConsolidation(absl::Span<const FactorialOutcome> query,
                                                        absl::Span<const FactorialOutcome> anchor,
                                                        const GatePolicy& policy);

Json ConsolidationVerdictToJson(const ConsolidationVerdict& verdict);

// The verdict as the gate's, for the candidate that realises `action` (kRetirePatches or
// kKeepBoth): pass when that action was judged right; fail when the other was or the adapter is
// proven worse. REQUIRES: action is one of these two.
GateVerdict AsGateVerdict(const ConsolidationVerdict& verdict, ConsolidationAction action);

}  // namespace evolora
