#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "evolora/adapters/sequential.h"
#include "evolora/core/json.h"

namespace evolora {

// The gate: the one acceptance test for every candidate, text or weights. Pure: no clock, no
// random, no model; equal input gives equal output.
//
// What is tested, per pair of outcomes of one case under the champion and under the candidate:
//   query    gain d = candidate_right - champion_right in {-1, 0, 1}; must be proven > min_gain
//   anchor   NET loss l = champion_right - candidate_right; must be proven < anchor_delta.
//            Net, because two runs of equal quality flip some answers each way and only the balance
//            is a loss; the raw flips of both directions stand in the verdict beside it.
//   shift    KL, adapter norm and answer length inside limits
// A pair with an identical request (same composed request, same adapter) has difference 0 by
// construction and counts: what a scoped change cannot touch is evidence that it does no harm.
//
// Statistics: always-valid one-sided bounds (adapters/sequential.h), each of level alpha. A pass
// needs every part, so the probability to pass a candidate that gains nothing, or one that loses
// delta or more, is at most alpha however often one looks (an intersection-union test needs no
// split of alpha). Premises the caller must keep: cases are drawn alike and in an order that does
// not depend on outcomes (fixed seed); each case is used once; no case took part in making the
// candidate. alpha holds per candidate: one who judges many candidates on the same cases uses
// AlphaForAttempt.

// Both outcomes of one case.
struct PairedOutcome {
  std::string case_id;  // unique over query and anchor
  std::string cluster;
  bool champion_right = false;
  bool candidate_right = false;
  bool identical_request = false;  // then both outcomes must be equal
};

// Measured on the candidate against the bare base (or, for length, the champion).
// Absent: does not apply (a text candidate has no adapter norm); that limit is not checked.
struct ShiftMeasures {
  std::optional<double> mean_kl;       // nats on anchors the champion answers right, to the base
  std::optional<double> norm_ratio;    // ||s B A||_F / ||W||_F, greatest over the modules
  std::optional<double> length_ratio;  // mean answer tokens, candidate / champion, on anchors
};

struct GatePolicy {
  double alpha = 0.05;  // level of each bound, (0, 0.5]
  double min_gain = 0;  // the proven gain must exceed it, [0, 1)
  // Greatest net loss on protected behaviour, (0, 1). 0.05 because it can be proven with anchor
  // sets of practical size (ZerosNeeded: 74 loss-free pairs) and is about what sampling noise
  // hides.
  double anchor_delta = 0.05;
  int64_t min_query_pairs = 10;  // no query decision before as many pairs
  double max_mean_kl = 0.5;
  double max_norm_ratio = 0.5;
  double min_length_ratio = 0.5;
  double max_length_ratio = 2.0;
};

// Errors: InvalidArgument names the field and the number.
absl::Status ValidateGatePolicy(const GatePolicy& policy);

// Level for the k-th candidate (k = 1, 2, ..) judged on the same cases: alpha * 6 / (pi k)^2, whose
// sum over all k is alpha (union bound).
double AlphaForAttempt(double alpha, int64_t attempt);

enum class GateOutcome { kPass, kFail, kInconclusive };
const char* GateOutcomeName(GateOutcome outcome);  // pass, fail, inconclusive

struct ClusterCounts {
  int64_t pairs = 0;
  int64_t wins = 0;
  int64_t losses = 0;
  friend bool operator==(const ClusterCounts&, const ClusterCounts&) = default;
};

// What was seen of one split, up to its decision.
struct GateEvidence {
  int64_t pairs = 0;      // looked at
  int64_t wins = 0;       // only the candidate right
  int64_t losses = 0;     // only the champion right
  int64_t identical = 0;  // pairs with identical requests
  // query: of the mean gain; anchor: of the mean net loss. Bounds: one-sided, level alpha each.
  double estimate = 0;
  double lower = -1;
  double upper = 1;
  std::map<std::string, ClusterCounts> clusters;
  friend bool operator==(const GateEvidence&, const GateEvidence&) = default;
};

struct GateVerdict {
  GateOutcome outcome = GateOutcome::kInconclusive;
  std::string reason;  // in words, with the numbers
  GateEvidence query;
  GateEvidence anchor;
  ShiftMeasures shift;
  GatePolicy policy;
};

Json GateVerdictToJson(const GateVerdict& verdict);
// Strict: unknown field, wrong type, impossible counts or bounds give InvalidArgument with the
// path.
absl::StatusOr<GateVerdict> GateVerdictFromJson(const Json& json);

// The gate fed pair by pair, so that the caller may stop measuring at the first decision.
// Each split is decided at its first crossing and its evidence is frozen there:
//   query    accepted (lower bound of gain > min_gain) or failed (upper bound of gain <= min_gain)
//   anchor   accepted (upper bound of loss < delta) or failed (lower bound of loss > delta)
// fail = any part failed; pass = both accepted and no limit exceeded; else inconclusive.
// Not thread-safe. Copyable.
class SequentialGate {
 public:
  static absl::StatusOr<SequentialGate> Create(const GatePolicy& policy);

  // Adds one pair; a pair that comes after its split was decided is checked and not counted.
  // Errors: InvalidArgument  empty or repeated case id; an identical request with unequal outcomes
  absl::Status ObserveQuery(const PairedOutcome& pair);
  absl::Status ObserveAnchor(const PairedOutcome& pair);
  // Replaces the measures. InvalidArgument: not finite or negative.
  absl::Status ObserveShift(const ShiftMeasures& shift);

  // Whether a further pair of that split can still change the verdict.
  bool WantsQuery() const;
  bool WantsAnchor() const;
  // Pass or fail is certain (unless a later ObserveShift exceeds a limit).
  bool Decided() const;
  // The verdict if nothing more is observed. Undecided: inconclusive, and the reason says what
  // lacks; "no effect" when every request seen was identical.
  GateVerdict Current() const;

 private:
  enum class Part { kOpen, kAccepted, kFailed };
  struct Stream {
    TernaryCounts counts;  // +1 = candidate only
    int64_t identical = 0;
    std::map<std::string, ClusterCounts> clusters;
    Part part = Part::kOpen;
    double threshold;  // the mean gain is tested against it
    MixtureBet above;  // evidence for gain > threshold
    MixtureBet below;  // on the negated values: for gain < threshold
  };
  explicit SequentialGate(const GatePolicy& policy);
  static Stream MakeStream(double threshold);
  // A split's evidence as numbers. Anchor turns gain into loss.
  GateEvidence EvidenceOf(const Stream& stream, bool as_loss) const;
  absl::Status Observe(const PairedOutcome& pair, int64_t min_pairs, Stream& stream);
  std::string QueryReason(const GateEvidence& evidence) const;
  std::string AnchorReason(const GateEvidence& evidence) const;
  // Which limits are exceeded, in words; "" when none.
  std::string ShiftFailure() const;

  GatePolicy policy_;
  std::set<std::string> seen_;
  Stream query_;   // threshold min_gain
  Stream anchor_;  // threshold -delta: a loss below delta is a gain above -delta
  ShiftMeasures shift_;
};

// Feeds query pairs until that question is decided, then (unless it failed) anchor pairs until that
// one is, then the shift measures: what SequentialGate decides when everything is known already.
// Errors: InvalidArgument as SequentialGate.
absl::StatusOr<GateVerdict> Judge(absl::Span<const PairedOutcome> query,
                                  absl::Span<const PairedOutcome> anchor,
                                  const ShiftMeasures& shift, const GatePolicy& policy);

}  // namespace evolora
