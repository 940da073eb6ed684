#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "evolora/core/case.h"
#include "evolora/core/episode.h"
#include "evolora/core/interval.h"
#include "evolora/core/json.h"
#include "evolora/evolver/failure_class.h"
#include "evolora/evolver/probe.h"

namespace evolora {

// What kind of text the candidate patch is (propose.h).
enum class PatchKind { kNone, kKnowledge, kSkill, kPrompt, kTool };
const char* PatchKindName(PatchKind kind);

// One failed episode with all the evolver may know about it. `value.fault` is never read.
struct Failure {
  Case value;
  Episode episode;
  PatchKind candidate = PatchKind::kNone;  // the patch that the pp and pr probes force
  int64_t patch_tokens = 0;                // tokens it adds to a request that retrieves it
  bool patch_in_state = false;             // the candidate is already part of the state that failed
  int num_siblings = 0;     // other failures of the cluster; knowledge uses surface variants
  std::string contradicts;  // id of a passing case that says the opposite, or ""
};

// A procedure (a rule is given, or a tool call is asked for) as opposed to a fact.
bool IsProcedure(const Case& c);
// Whether the candidate has to carry over to the cluster's other cases. A knowledge entry teaches
// one question only, also when a rule stands behind it: its siblings are that question's variants.
bool TeachesProcedure(const Failure& failure);

// The classes of the cluster's fully probed failures under the current weights. Made by
// EvidenceOf (ledger.h).
struct ClusterEvidence {
  std::map<FailureClass, int64_t> probed;
};

// The inheritable class that the probed failures agree on, if ProbePolicy says it is established.
// Classes that are not inheritable are not counted: they speak about one failure, not about the
// cluster.
std::optional<FailureClass> EstablishedClass(const ClusterEvidence& evidence,
                                             const ProbePolicy& policy);

// How many more fully probed failures of the commonest class would establish it; 0 when it is
// established, 1000 when nothing would. Fewer can not: the plans of so many failures do not depend
// on each other.
int64_t ProbesUntilEstablished(const ClusterEvidence& evidence, const ProbePolicy& policy);

ProbeContext ContextOf(const Failure& failure, const ClusterEvidence& evidence,
                       const ProbePolicy& policy);

// The id of the first case of `passing` that asks the same (normalised request text) and whose
// known right answer the failure's right answer contradicts; "" when there is none. Private and
// volatile failures contradict nothing: an older answer may simply be out of date.
std::string FindContradiction(const Case& failure, absl::Span<const Case> passing);

struct MeasuredRate {
  ProbeKind kind = ProbeKind::kGold;
  ProbeTarget target = ProbeTarget::kOriginal;
  ProbeCounts counts;
  double rate = 0;    // successes / trials
  Interval interval;  // Wilson, 95 %
};

// The measured facts a decision is made from. Self-contained: Decide needs no other input about the
// failure.
struct Diagnosis {
  std::string episode_id;
  std::string case_id;
  std::string cluster;
  std::string tool;        // expected tool of a tool call, or ""
  std::string sub_intent;  // tool name, else the normalised answer
  FailureClass failure_class = FailureClass::kUndetermined;
  bool inherited = false;  // class taken over from the cluster, not probed in full
  bool is_procedure = false;
  bool is_volatile = false;
  bool is_private = false;
  bool has_answer = false;  // a right answer is known: teacher data
  bool has_provenance = false;
  bool gold_checked = false;
  bool patch_in_state = false;
  std::string untrusted_text;  // why the feedback may not become state; "" = passed the check
  std::string contradicts;
  PatchKind candidate = PatchKind::kNone;
  int64_t patch_tokens = 0;
  int64_t num_siblings = 0;
  std::vector<MeasuredRate> rates;        // in enum order, only what was measured
  std::optional<double> activation_gap;   // pp - pr on the original
  std::optional<double> adherence_gap;    // po - pp on the original
  std::optional<double> portability_gap;  // pp(original) - pp(siblings)
  double confidence = 0;  // probability of the weakest level the class rests on, (0, 1]
  std::string reason;     // one sentence with the numbers
};

// The failure class by the decision table, from whatever the table holds. Pure and total: too few
// probes give kUndetermined. When NextProbe returned nullopt before the budget was spent, the class
// is the one NextProbe stopped at (both walk one tree).
Diagnosis Diagnose(const Failure& failure, const ProbeTable& table, const ClusterEvidence& evidence,
                   const ProbePolicy& policy);

// The measured rate, or nullptr.
const MeasuredRate* FindRate(const Diagnosis& diagnosis, ProbeKind kind, ProbeTarget target);

// For the evidence log and the report; one way.
Json DiagnosisToJson(const Diagnosis& diagnosis);

}  // namespace evolora
