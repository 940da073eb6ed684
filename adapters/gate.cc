#include "evolora/adapters/gate.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "evolora/core/check.h"
#include "evolora/core/status_macros.h"

namespace evolora {
namespace {

absl::Status Outside(const char* field, double value, const char* range) {
  return absl::InvalidArgumentError(
      absl::StrCat("gate policy: ", field, " is ", value, ", must be ", range));
}

// One limit of the shift measures; "" when it holds or does not apply.
std::string Exceeded(const char* name, const std::optional<double>& value, double low,
                     double high) {
  if (!value.has_value() || (*value >= low && *value <= high)) return "";
  return absl::StrFormat("%s %.4g is outside [%.4g, %.4g]", name, *value, low, high);
}

absl::Status CheckMeasure(const char* name, const std::optional<double>& value) {
  if (!value.has_value() || (std::isfinite(*value) && *value >= 0)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("shift measure ", name, " is ", *value, ", must be finite and >= 0"));
}

std::string Describe(const char* split, const GateEvidence& e) {
  return absl::StrFormat("%s: %d won, %d lost of %d pairs (%d identical)", split, e.wins, e.losses,
                         e.pairs, e.identical);
}

}  // namespace

absl::Status ValidateGatePolicy(const GatePolicy& p) {
  if (!(p.alpha > 0 && p.alpha <= 0.5)) return Outside("alpha", p.alpha, "in (0, 0.5]");
  if (!(p.min_gain > -1 && p.min_gain < 1)) return Outside("min_gain", p.min_gain, "in (-1, 1)");
  if (!(p.anchor_delta > 0 && p.anchor_delta < 1)) {
    return Outside("anchor_delta", p.anchor_delta, "in (0, 1)");
  }
  if (p.min_query_pairs < 1) {
    return Outside("min_query_pairs", static_cast<double>(p.min_query_pairs), ">= 1");
  }
  if (!(p.max_mean_kl >= 0)) return Outside("max_mean_kl", p.max_mean_kl, ">= 0");
  if (!(p.max_norm_ratio >= 0)) return Outside("max_norm_ratio", p.max_norm_ratio, ">= 0");
  if (!(p.min_length_ratio >= 0 && p.min_length_ratio <= 1)) {
    return Outside("min_length_ratio", p.min_length_ratio, "in [0, 1]");
  }
  if (!(p.max_length_ratio >= 1)) return Outside("max_length_ratio", p.max_length_ratio, ">= 1");
  if (!std::isfinite(p.max_mean_kl + p.max_norm_ratio + p.max_length_ratio)) {
    return absl::InvalidArgumentError("gate policy: limits must be finite");
  }
  return absl::OkStatus();
}

double AlphaForAttempt(double alpha, int64_t attempt) {
  EVOLORA_CHECK(attempt >= 1, "attempts count from 1");
  const double k = static_cast<double>(attempt);
  return alpha * 6 / (M_PI * M_PI * k * k);
}

const char* GateOutcomeName(GateOutcome outcome) {
  switch (outcome) {
    case GateOutcome::kPass:
      return "pass";
    case GateOutcome::kFail:
      return "fail";
    case GateOutcome::kInconclusive:
      return "inconclusive";
  }
  return "?";
}

absl::StatusOr<SequentialGate> SequentialGate::Create(const GatePolicy& policy) {
  RETURN_IF_ERROR(ValidateGatePolicy(policy));
  return SequentialGate(policy);
}

SequentialGate::SequentialGate(const GatePolicy& policy)
    : policy_(policy),
      query_(MakeStream(policy.min_gain)),
      anchor_(MakeStream(-policy.anchor_delta)) {}

SequentialGate::Stream SequentialGate::MakeStream(double threshold) {
  return Stream{
      .threshold = threshold, .above = MixtureBet(threshold), .below = MixtureBet(-threshold)};
}

absl::Status SequentialGate::ObserveQuery(const PairedOutcome& pair) {
  return Observe(pair, policy_.min_query_pairs, query_);
}

absl::Status SequentialGate::ObserveAnchor(const PairedOutcome& pair) {
  return Observe(pair, 1, anchor_);
}

absl::Status SequentialGate::Observe(const PairedOutcome& pair, int64_t min_pairs, Stream& stream) {
  if (pair.case_id.empty()) return absl::InvalidArgumentError("gate: pair without a case id");
  if (pair.identical_request && pair.champion_right != pair.candidate_right) {
    return absl::InvalidArgumentError(absl::StrCat(
        "gate: case ", pair.case_id, ": identical request but unequal outcomes of the two sides"));
  }
  if (!seen_.insert(pair.case_id).second) {
    return absl::InvalidArgumentError(
        absl::StrCat("gate: case ", pair.case_id, " was observed before"));
  }
  if (stream.part != Part::kOpen) return absl::OkStatus();

  const bool win = pair.candidate_right && !pair.champion_right;
  const bool loss = pair.champion_right && !pair.candidate_right;
  (win ? stream.counts.plus : loss ? stream.counts.minus : stream.counts.zero) += 1;
  stream.identical += pair.identical_request;
  ClusterCounts& cluster = stream.clusters[pair.cluster];
  cluster.pairs += 1;
  cluster.wins += win;
  cluster.losses += loss;

  if (stream.counts.total() < min_pairs) return absl::OkStatus();
  const double enough = -std::log(policy_.alpha);
  if (stream.above.LogCapital(stream.counts) >= enough) {
    stream.part = Part::kAccepted;
  } else if (stream.below.LogCapital(stream.counts.Negated()) >= enough) {
    stream.part = Part::kFailed;
  }
  return absl::OkStatus();
}

absl::Status SequentialGate::ObserveShift(const ShiftMeasures& shift) {
  RETURN_IF_ERROR(CheckMeasure("mean_kl", shift.mean_kl));
  RETURN_IF_ERROR(CheckMeasure("norm_ratio", shift.norm_ratio));
  RETURN_IF_ERROR(CheckMeasure("length_ratio", shift.length_ratio));
  shift_ = shift;
  return absl::OkStatus();
}

bool SequentialGate::Decided() const {
  return query_.part == Part::kFailed || anchor_.part == Part::kFailed || !ShiftFailure().empty() ||
         (query_.part == Part::kAccepted && anchor_.part == Part::kAccepted);
}

bool SequentialGate::WantsQuery() const { return !Decided() && query_.part == Part::kOpen; }
bool SequentialGate::WantsAnchor() const { return !Decided() && anchor_.part == Part::kOpen; }

std::string SequentialGate::ShiftFailure() const {
  std::vector<std::string> failures;
  for (std::string& text : std::vector<std::string>{
           Exceeded("KL", shift_.mean_kl, 0, policy_.max_mean_kl),
           Exceeded("norm ratio", shift_.norm_ratio, 0, policy_.max_norm_ratio),
           Exceeded("length ratio", shift_.length_ratio, policy_.min_length_ratio,
                    policy_.max_length_ratio)}) {
    if (!text.empty()) failures.push_back(std::move(text));
  }
  return absl::StrJoin(failures, ", ");
}

GateEvidence SequentialGate::EvidenceOf(const Stream& stream, bool as_loss) const {
  const TernaryCounts& counts = stream.counts;
  GateEvidence out{.pairs = counts.total(),
                   .wins = counts.plus,
                   .losses = counts.minus,
                   .identical = stream.identical,
                   .lower = MeanLowerBound(counts, policy_.alpha),
                   .upper = MeanUpperBound(counts, policy_.alpha),
                   .clusters = stream.clusters};
  // The decision was taken on the capital at the threshold itself; rounding must not blur it.
  if (stream.part == Part::kAccepted) out.lower = std::max(out.lower, stream.threshold);
  if (stream.part == Part::kFailed) out.upper = std::min(out.upper, stream.threshold);
  if (out.pairs > 0) {
    out.estimate = static_cast<double>(out.wins - out.losses) / static_cast<double>(out.pairs);
  }
  if (as_loss) {
    // 0.0 - x: no negative zero in the JSON.
    out.estimate = 0.0 - out.estimate;
    out.lower = 0.0 - std::exchange(out.upper, 0.0 - out.lower);
  }
  return out;
}

std::string SequentialGate::QueryReason(const GateEvidence& e) const {
  const std::string seen = Describe("query", e);
  switch (query_.part) {
    case Part::kAccepted:
      return absl::StrFormat("%s, gain %.4f, lower bound %.4f above %.4g", seen, e.estimate,
                             e.lower, policy_.min_gain);
    case Part::kFailed:
      return absl::StrFormat("%s, gain %.4f, upper bound %.4f not above %.4g", seen, e.estimate,
                             e.upper, policy_.min_gain);
    case Part::kOpen:
      break;
  }
  if (e.pairs < policy_.min_query_pairs) {
    return absl::StrFormat("%s, fewer than %d", seen, policy_.min_query_pairs);
  }
  return absl::StrFormat("%s, gain %.4f undecided: bounds [%.4f, %.4f] hold %.4g", seen, e.estimate,
                         e.lower, e.upper, policy_.min_gain);
}

std::string SequentialGate::AnchorReason(const GateEvidence& e) const {
  const std::string seen = Describe("anchor", e);
  const double delta = policy_.anchor_delta;
  switch (anchor_.part) {
    case Part::kAccepted:
      return absl::StrFormat("%s, loss %.4f, upper bound %.4f below %.4g", seen, e.estimate,
                             e.upper, delta);
    case Part::kFailed:
      return absl::StrFormat("%s, loss %.4f, lower bound %.4f above %.4g", seen, e.estimate,
                             e.lower, delta);
    case Part::kOpen:
      break;
  }
  return absl::StrFormat(
      "%s, loss %.4f undecided: bounds [%.4f, %.4f] hold %.4g (%d pairs without a flip would do)",
      seen, e.estimate, e.lower, e.upper, delta, ZerosNeeded(policy_.alpha, delta));
}

GateVerdict SequentialGate::Current() const {
  GateVerdict out{.query = EvidenceOf(query_, false),
                  .anchor = EvidenceOf(anchor_, true),
                  .shift = shift_,
                  .policy = policy_};
  std::vector<std::string> accepted;
  std::vector<std::string> failed;
  std::vector<std::string> open;
  const auto sort = [&](Part part, std::string reason) {
    (part == Part::kFailed ? failed
     : part == Part::kOpen ? open
                           : accepted)
        .push_back(std::move(reason));
  };
  sort(query_.part, QueryReason(out.query));
  sort(anchor_.part, AnchorReason(out.anchor));
  if (std::string shift = ShiftFailure(); !shift.empty()) failed.push_back("shift: " + shift);

  const int64_t pairs = out.query.pairs + out.anchor.pairs;
  if (!failed.empty()) {
    out.outcome = GateOutcome::kFail;
    out.reason = absl::StrJoin(failed, "; ");
  } else if (open.empty()) {
    out.outcome = GateOutcome::kPass;
    out.reason = absl::StrJoin(accepted, "; ");
  } else if (pairs > 0 && out.query.identical + out.anchor.identical == pairs) {
    out.reason = absl::StrCat("no effect: the candidate changed none of ", pairs, " requests");
  } else {
    out.reason = absl::StrJoin(open, "; ");
  }
  return out;
}

absl::StatusOr<GateVerdict> Judge(absl::Span<const PairedOutcome> query,
                                  absl::Span<const PairedOutcome> anchor,
                                  const ShiftMeasures& shift, const GatePolicy& policy) {
  ASSIGN_OR_RETURN(SequentialGate gate, SequentialGate::Create(policy));
  for (const PairedOutcome& pair : query) {
    if (!gate.WantsQuery()) break;
    RETURN_IF_ERROR(gate.ObserveQuery(pair));
  }
  for (const PairedOutcome& pair : anchor) {
    if (!gate.WantsAnchor()) break;
    RETURN_IF_ERROR(gate.ObserveAnchor(pair));
  }
  RETURN_IF_ERROR(gate.ObserveShift(shift));
  return gate.Current();
}

}  // namespace evolora
