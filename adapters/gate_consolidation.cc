#include "evolora/adapters/gate_consolidation.h"

#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "evolora/core/check.h"
#include "evolora/core/status_macros.h"

namespace evolora {
namespace {

using Cell = bool FactorialOutcome::*;

Contrast Compare(absl::Span<const FactorialOutcome> cases, Cell from, Cell to, double alpha) {
  Contrast out{.pairs = static_cast<int64_t>(cases.size())};
  for (const FactorialOutcome& c : cases) {
    out.wins += c.*to && !(c.*from);
    out.losses += c.*from && !(c.*to);
  }
  const TernaryCounts counts{
      .plus = out.wins, .zero = out.pairs - out.wins - out.losses, .minus = out.losses};
  if (out.pairs > 0) {
    out.estimate = static_cast<double>(out.wins - out.losses) / static_cast<double>(out.pairs);
  }
  out.lower = MeanLowerBound(counts, alpha);
  out.upper = MeanUpperBound(counts, alpha);
  return out;
}

FactorialEvidence Evidence(absl::Span<const FactorialOutcome> cases, double alpha) {
  using F = FactorialOutcome;
  FactorialEvidence out{.pairs = static_cast<int64_t>(cases.size())};
  for (const F& c : cases) {
    out.neither += c.neither;
    out.patches_only += c.patches_only;
    out.adapter_only += c.adapter_only;
    out.both += c.both;
  }
  out.adapter_vs_nothing = Compare(cases, &F::neither, &F::adapter_only, alpha);
  out.adapter_vs_patches = Compare(cases, &F::patches_only, &F::adapter_only, alpha);
  out.both_vs_patches = Compare(cases, &F::patches_only, &F::both, alpha);
  out.both_vs_adapter = Compare(cases, &F::adapter_only, &F::both, alpha);
  if (out.pairs > 0) {
    const int64_t balance = out.both - out.adapter_only - out.patches_only + out.neither;
    out.interaction = static_cast<double>(balance) / static_cast<double>(out.pairs);
  }
  return out;
}

absl::Status CheckIds(absl::Span<const FactorialOutcome> cases, std::set<std::string>& seen) {
  for (const FactorialOutcome& c : cases) {
    if (c.case_id.empty()) return absl::InvalidArgumentError("consolidation: empty case id");
    if (!seen.insert(c.case_id).second) {
      return absl::InvalidArgumentError(
          absl::StrCat("consolidation: case ", c.case_id, " stands twice"));
    }
  }
  return absl::OkStatus();
}

std::string Describe(const char* name, const Contrast& query, const Contrast& anchor) {
  return absl::StrFormat("%s: query %+.4f in [%.4f, %.4f], anchor %+.4f in [%.4f, %.4f]", name,
                         query.estimate, query.lower, query.upper, anchor.estimate, anchor.lower,
                         anchor.upper);
}

ConsolidationAction Decide(const FactorialEvidence& query, const FactorialEvidence& anchor,
                           const GatePolicy& policy) {
  const double delta = policy.anchor_delta;
  if (query.pairs < policy.min_query_pairs) return ConsolidationAction::kInconclusive;
  if (query.adapter_vs_nothing.lower > policy.min_gain && query.adapter_vs_patches.lower > -delta &&
      query.both_vs_adapter.lower <= policy.min_gain && anchor.adapter_vs_patches.lower > -delta) {
    return ConsolidationAction::kRetirePatches;
  }
  if (query.both_vs_patches.lower > policy.min_gain && anchor.both_vs_patches.lower > -delta) {
    return ConsolidationAction::kKeepBoth;
  }
  const bool both_harms =
      query.both_vs_patches.upper < -delta || anchor.both_vs_patches.upper < -delta;
  const bool alone_harms =
      query.adapter_vs_patches.upper < -delta || anchor.adapter_vs_patches.upper < -delta;
  return both_harms && alone_harms ? ConsolidationAction::kKeepPatches
                                   : ConsolidationAction::kInconclusive;
}

Json ContrastToJson(const Contrast& c) {
  return {{"pairs", c.pairs},       {"wins", c.wins},   {"losses", c.losses},
          {"estimate", c.estimate}, {"lower", c.lower}, {"upper", c.upper}};
}

Json EvidenceToJson(const FactorialEvidence& e) {
  return {{"pairs", e.pairs},
          {"neither", e.neither},
          {"patches_only", e.patches_only},
          {"adapter_only", e.adapter_only},
          {"both", e.both},
          {"adapter_vs_nothing", ContrastToJson(e.adapter_vs_nothing)},
          {"adapter_vs_patches", ContrastToJson(e.adapter_vs_patches)},
          {"both_vs_patches", ContrastToJson(e.both_vs_patches)},
          {"both_vs_adapter", ContrastToJson(e.both_vs_adapter)},
          {"interaction", e.interaction}};
}

GateEvidence AsGain(const Contrast& c) {
  return {.pairs = c.pairs,
          .wins = c.wins,
          .losses = c.losses,
          .estimate = c.estimate,
          .lower = c.lower,
          .upper = c.upper};
}

// 0.0 - x: no negative zero in the JSON.
GateEvidence AsLoss(const Contrast& c) {
  GateEvidence out = AsGain(c);
  out.estimate = 0.0 - c.estimate;
  out.lower = 0.0 - c.upper;
  out.upper = 0.0 - c.lower;
  return out;
}

}  // namespace

const char* ConsolidationActionName(ConsolidationAction action) {
  switch (action) {
    case ConsolidationAction::kRetirePatches:
      return "retire_patches";
    case ConsolidationAction::kKeepBoth:
      return "keep_both";
    case ConsolidationAction::kKeepPatches:
      return "keep_patches";
    case ConsolidationAction::kInconclusive:
      return "inconclusive";
  }
  return "?";
}

absl::StatusOr<ConsolidationVerdict> JudgeConsolidation(absl::Span<const FactorialOutcome> query,
                                                        absl::Span<const FactorialOutcome> anchor,
                                                        const GatePolicy& policy) {
  RETURN_IF_ERROR(ValidateGatePolicy(policy));
  std::set<std::string> seen;
  RETURN_IF_ERROR(CheckIds(query, seen));
  RETURN_IF_ERROR(CheckIds(anchor, seen));
  ConsolidationVerdict out{.query = Evidence(query, policy.alpha),
                           .anchor = Evidence(anchor, policy.alpha),
                           .policy = policy};
  out.action = Decide(out.query, out.anchor, policy);
  out.reason = absl::StrCat(
      ConsolidationActionName(out.action), ": ",
      Describe("adapter alone over patches", out.query.adapter_vs_patches,
               out.anchor.adapter_vs_patches),
      "; ", Describe("both over patches", out.query.both_vs_patches, out.anchor.both_vs_patches),
      "; ", Describe("both over adapter", out.query.both_vs_adapter, out.anchor.both_vs_adapter),
      absl::StrFormat("; interaction on query %+.4f", out.query.interaction));
  return out;
}

Json ConsolidationVerdictToJson(const ConsolidationVerdict& v) {
  return {{"schema", 1},
          {"action", ConsolidationActionName(v.action)},
          {"reason", v.reason},
          {"query", EvidenceToJson(v.query)},
          {"anchor", EvidenceToJson(v.anchor)},
          {"alpha", v.policy.alpha},
          {"delta", v.policy.anchor_delta},
          {"min_gain", v.policy.min_gain},
          {"min_query_pairs", v.policy.min_query_pairs}};
}

GateVerdict AsGateVerdict(const ConsolidationVerdict& v, ConsolidationAction action) {
  const bool retire = action == ConsolidationAction::kRetirePatches;
  EVOLORA_CHECK(retire || action == ConsolidationAction::kKeepBoth,
                "only an action that changes the state is a candidate");
  GateVerdict out{.reason = absl::StrCat("consolidation, ", v.reason), .policy = v.policy};
  // Retiring has to lose nothing; what it gains is the tokens of the patches.
  if (retire) out.policy.min_gain = -v.policy.anchor_delta;
  out.query = AsGain(retire ? v.query.adapter_vs_patches : v.query.both_vs_patches);
  out.anchor = AsLoss(retire ? v.anchor.adapter_vs_patches : v.anchor.both_vs_patches);
  if (v.action == action) {
    out.outcome = GateOutcome::kPass;
  } else if (v.action != ConsolidationAction::kInconclusive) {
    out.outcome = GateOutcome::kFail;
  }
  return out;
}

}  // namespace evolora
