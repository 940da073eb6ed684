#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "evolora/adapters/gate.h"
#include "evolora/core/status_macros.h"

namespace evolora {
namespace {

constexpr int64_t kMaxCount = int64_t{1} << 40;

Json PolicyToJson(const GatePolicy& p) {
  return {{"alpha", p.alpha},
          {"anchor_delta", p.anchor_delta},
          {"max_length_ratio", p.max_length_ratio},
          {"max_mean_kl", p.max_mean_kl},
          {"max_norm_ratio", p.max_norm_ratio},
          {"min_gain", p.min_gain},
          {"min_length_ratio", p.min_length_ratio},
          {"min_query_pairs", p.min_query_pairs}};
}

Json EvidenceToJson(const GateEvidence& e) {
  Json clusters = Json::object();
  for (const auto& [name, c] : e.clusters) {
    clusters[ReplaceInvalidUtf8(name)] = {
        {"pairs", c.pairs}, {"wins", c.wins}, {"losses", c.losses}};
  }
  return {{"pairs", e.pairs},       {"wins", e.wins},
          {"losses", e.losses},     {"identical", e.identical},
          {"estimate", e.estimate}, {"lower", e.lower},
          {"upper", e.upper},       {"clusters", std::move(clusters)}};
}

Json ShiftToJson(const ShiftMeasures& shift) {
  Json out = Json::object();
  if (shift.mean_kl.has_value()) out["mean_kl"] = *shift.mean_kl;
  if (shift.norm_ratio.has_value()) out["norm_ratio"] = *shift.norm_ratio;
  if (shift.length_ratio.has_value()) out["length_ratio"] = *shift.length_ratio;
  return out;
}

absl::Status Wrong(const std::string& path, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat(path, ": ", why));
}

absl::StatusOr<GatePolicy> PolicyFromJson(const Json& json, const std::string& path) {
  JsonFields f(json, path);
  const GatePolicy p{
      .alpha = f.Number("alpha"),
      .min_gain = f.Number("min_gain"),
      .anchor_delta = f.Number("anchor_delta"),
      .min_query_pairs = f.Integer("min_query_pairs", 1, kMaxCount),
      .max_mean_kl = f.Number("max_mean_kl"),
      .max_norm_ratio = f.Number("max_norm_ratio"),
      .min_length_ratio = f.Number("min_length_ratio"),
      .max_length_ratio = f.Number("max_length_ratio"),
  };
  RETURN_IF_ERROR(f.Done());
  RETURN_IF_ERROR(Annotate(ValidateGatePolicy(p), path));
  return p;
}

absl::StatusOr<ShiftMeasures> ShiftFromJson(const Json& json, const std::string& path) {
  JsonFields f(json, path);
  const ShiftMeasures shift{.mean_kl = f.OptionalNumber("mean_kl"),
                            .norm_ratio = f.OptionalNumber("norm_ratio"),
                            .length_ratio = f.OptionalNumber("length_ratio")};
  RETURN_IF_ERROR(f.Done());
  for (const auto& value : {shift.mean_kl, shift.norm_ratio, shift.length_ratio}) {
    if (value.value_or(0) < 0) return Wrong(path, absl::StrCat("negative measure ", *value));
  }
  return shift;
}

absl::StatusOr<ClusterCounts> ClusterFromJson(const Json& json, const std::string& path) {
  JsonFields f(json, path);
  const ClusterCounts c{.pairs = f.Integer("pairs", 1, kMaxCount),
                        .wins = f.Integer("wins", 0, kMaxCount),
                        .losses = f.Integer("losses", 0, kMaxCount)};
  RETURN_IF_ERROR(f.Done());
  if (c.wins + c.losses > c.pairs) return Wrong(path, "more wins and losses than pairs");
  return c;
}

// Counts add up, the estimate is theirs (sign: +1 gain, -1 loss) and lies between its bounds.
absl::Status CheckEvidence(const GateEvidence& e, double sign, const std::string& path) {
  if (e.wins + e.losses + e.identical > e.pairs) {
    return Wrong(path, "wins + losses + identical exceed pairs");
  }
  if (!e.clusters.empty()) {  // empty: a verdict that was not counted by cluster
    ClusterCounts sum;
    for (const auto& [name, c] : e.clusters) {
      sum.pairs += c.pairs;
      sum.wins += c.wins;
      sum.losses += c.losses;
    }
    if (sum.pairs != e.pairs || sum.wins != e.wins || sum.losses != e.losses) {
      return Wrong(path, "clusters do not add up to the counts");
    }
  }
  const double expected =
      e.pairs == 0 ? 0
                   : sign * static_cast<double>(e.wins - e.losses) / static_cast<double>(e.pairs);
  if (std::abs(e.estimate - expected) > 1e-9) {
    return Wrong(path, absl::StrCat("estimate ", e.estimate, ", the counts give ", expected));
  }
  const bool ordered =
      -1 <= e.lower && e.lower <= e.estimate + 1e-9 && e.estimate <= e.upper + 1e-9 && e.upper <= 1;
  return ordered ? absl::OkStatus() : Wrong(path, "bounds do not enclose the estimate in [-1, 1]");
}

absl::StatusOr<GateEvidence> EvidenceFromJson(const Json& json, double sign,
                                              const std::string& path) {
  JsonFields f(json, path);
  GateEvidence e{.pairs = f.Integer("pairs", 0, kMaxCount),
                 .wins = f.Integer("wins", 0, kMaxCount),
                 .losses = f.Integer("losses", 0, kMaxCount),
                 .identical = f.Integer("identical", 0, kMaxCount),
                 .estimate = f.Number("estimate"),
                 .lower = f.Number("lower"),
                 .upper = f.Number("upper")};
  const Json& clusters = f.Object("clusters");
  RETURN_IF_ERROR(f.Done());
  for (const auto& [name, value] : clusters.items()) {
    ASSIGN_OR_RETURN(e.clusters[name],
                     ClusterFromJson(value, absl::StrCat(path, ".clusters.", name)));
  }
  RETURN_IF_ERROR(CheckEvidence(e, sign, path));
  return e;
}

bool Within(const std::optional<double>& value, double low, double high) {
  return !value.has_value() || (*value >= low && *value <= high);
}

// A pass must be borne out by its own numbers.
absl::Status CheckPass(const GateVerdict& v) {
  const GatePolicy& p = v.policy;
  if (v.query.pairs < p.min_query_pairs) return Wrong("verdict.query", "too few pairs for a pass");
  if (v.query.lower < p.min_gain) return Wrong("verdict.query", "lower bound too low for a pass");
  if (v.anchor.pairs < 1 || v.anchor.upper > p.anchor_delta) {
    return Wrong("verdict.anchor", "upper bound too high for a pass");
  }
  if (!Within(v.shift.mean_kl, 0, p.max_mean_kl) ||
      !Within(v.shift.norm_ratio, 0, p.max_norm_ratio) ||
      !Within(v.shift.length_ratio, p.min_length_ratio, p.max_length_ratio)) {
    return Wrong("verdict.shift", "outside the limits for a pass");
  }
  return absl::OkStatus();
}

}  // namespace

Json GateVerdictToJson(const GateVerdict& v) {
  return {{"schema", 1},
          {"outcome", GateOutcomeName(v.outcome)},
          {"reason", ReplaceInvalidUtf8(v.reason)},
          {"query", EvidenceToJson(v.query)},
          {"anchor", EvidenceToJson(v.anchor)},
          {"shift", ShiftToJson(v.shift)},
          {"policy", PolicyToJson(v.policy)}};
}

absl::StatusOr<GateVerdict> GateVerdictFromJson(const Json& json) {
  JsonFields f(json, "verdict");
  f.Integer("schema", 1, 1);
  const std::string outcome = f.String("outcome");
  GateVerdict v{.reason = f.String("reason")};
  const Json& query = f.Object("query");
  const Json& anchor = f.Object("anchor");
  const Json& shift = f.Object("shift");
  const Json& policy = f.Object("policy");
  RETURN_IF_ERROR(f.Done());
  bool known = false;
  for (const GateOutcome o : {GateOutcome::kPass, GateOutcome::kFail, GateOutcome::kInconclusive}) {
    if (outcome == GateOutcomeName(o)) {
      v.outcome = o;
      known = true;
    }
  }
  if (!known) return Wrong("verdict.outcome", absl::StrCat("unknown value \"", outcome, "\""));
  ASSIGN_OR_RETURN(v.query, EvidenceFromJson(query, 1, "verdict.query"));
  ASSIGN_OR_RETURN(v.anchor, EvidenceFromJson(anchor, -1, "verdict.anchor"));
  ASSIGN_OR_RETURN(v.shift, ShiftFromJson(shift, "verdict.shift"));
  ASSIGN_OR_RETURN(v.policy, PolicyFromJson(policy, "verdict.policy"));
  if (v.outcome == GateOutcome::kPass) RETURN_IF_ERROR(CheckPass(v));
  return v;
}

}  // namespace evolora
