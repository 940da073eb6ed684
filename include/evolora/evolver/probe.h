#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "evolora/core/case.h"
#include "evolora/evolver/failure_class.h"

// The probe plan: which controlled replay of a failure to run next, as data. The evolver never
// calls a model; the caller runs each step and feeds the counts back:
//
//   ProbeTable table;
//   while (auto step = NextProbe(table, context, policy)) table.Add(step->kind, step->target,
//   Run(*step)); Diagnosis d = Diagnose(failure, table, evidence, policy);
namespace evolora {

enum class ProbeKind {
  kGold,            // the verifier run on the feedback's own answer; costs no model call
  kAsIs,            // p0: the current state, unchanged
  kOracle,          // po: the hint (else the rule, else the answer) forced into the context
  kForcedPatch,     // pp: the candidate patch forced into the context
  kRetrievedPatch,  // pr: the same patch through the real retriever or trigger
  kPassAtK,         // pk: sampled, no help
};
inline constexpr int kNumProbeKinds = 6;

enum class ProbeTarget { kOriginal, kSiblings };

const char* ProbeKindName(ProbeKind kind);        // "gold", "p0", "po", "pp", "pr", "pk"
const char* ProbeTargetName(ProbeTarget target);  // "original", "siblings"

struct ProbeCounts {
  int64_t successes = 0;
  int64_t trials = 0;
  int64_t tool_errors = 0;  // trials refused by the tool runtime, not by the expected answer
};

// Counts per kind x target. REQUIRES in Add: 0 <= successes, tool_errors; their sum <= trials.
class ProbeTable {
 public:
  const ProbeCounts& at(ProbeKind kind, ProbeTarget target) const;
  void Add(ProbeKind kind, ProbeTarget target, const ProbeCounts& counts);
  // Trials of every kind but kGold.
  int64_t model_calls() const;

 private:
  std::array<std::array<ProbeCounts, 2>, kNumProbeKinds> counts_{};
};

enum class Decoding { kGreedy, kSampled };

struct ProbePolicy {
  // How requests are decoded when served. kGreedy: one replay of a case is exact, so p0, po, pp and
  // pr take one trial on the original and one per sibling. kSampled: min_replays..max_replays
  // trials at `temperature`. pk is sampled always.
  Decoding decoding = Decoding::kGreedy;
  int min_replays = 3;
  int max_replays = 5;
  int pass_samples = 5;      // trials of pk
  double temperature = 0.7;  // of sampled replays
  // A rate is high when P(rate > high) >= confidence, low when P(rate < low) >= confidence, under
  // Beta(1 + successes, 1 + failures). With these defaults 3 of 3 and 4 of 5 are high, 0 of 3 and
  // 1 of 5 low; between them the replays go on to max_replays, then the nearer half wins.
  double high = 0.6;
  double low = 0.4;
  double confidence = 0.75;
  int64_t max_model_calls = 24;  // per failure
  // A cluster's signature is established after min_probed fully probed failures when
  // P(share of the class > established_share) >= established_confidence. 5 of 5 and 7 of 8 pass, 5
  // of 6 not.
  int min_probed = 5;
  double established_share = 0.6;
  double established_confidence = 0.9;
};

// What is known about the failure before any replay. See ContextOf (diagnose.h).
struct ProbeContext {
  bool is_procedure = false;    // a rule is given, or a tool call is asked for; else a fact
  bool has_gold = false;        // the feedback holds a right answer
  bool has_help = false;        // ... or a rule or a hint: the oracle probe is possible
  bool has_patch = false;       // a candidate patch was proposed
  bool has_retriever = true;    // the real retriever can be replayed with the candidate patch
  bool patch_in_state = false;  // the candidate is already part of the state that failed
  bool episode_tool_error = false;
  bool contradicts = false;  // a passing case says the opposite
  int num_siblings = 0;      // facts: surface variants; procedures: failures of the same cluster
  double chance_rate = 0;    // success of a blind guess, 1/choices for multiple choice
  std::optional<FailureClass> established;  // signature of the cluster, when clear
};

// One step for the caller to run. Trial i of a step uses seed index first_seed + i, and on siblings
// the sibling (first_seed + i) mod num_siblings, so equal indices of different kinds are paired.
struct ProbeStep {
  ProbeKind kind = ProbeKind::kGold;
  ProbeTarget target = ProbeTarget::kOriginal;
  Decoding decoding = Decoding::kGreedy;
  double temperature = 0;
  int64_t trials = 1;
  int64_t first_seed = 0;
  friend bool operator==(const ProbeStep&, const ProbeStep&) = default;
};

// The next, cheapest probe that can still change the diagnosis; nullopt when the signature is
// decided or max_model_calls is spent. Order: gold, p0, pp, pr, pp on siblings, pr on siblings, or
// after a low pp: po, pk. With an established signature: gold, then pp for the text lever, nothing
// for weights; a pp that disagrees with the signature falls back to the whole plan.
std::optional<ProbeStep> NextProbe(const ProbeTable& so_far, const ProbeContext& context,
                                   const ProbePolicy& policy);

// P(rate > x) under Beta(1 + successes, 1 + trials - successes): a binomial tail, exact for
// integers. REQUIRES: 0 <= successes <= trials, 0 < x < 1.
double PosteriorAbove(int64_t successes, int64_t trials, double x);

// The same question in other words of our own: the siblings of a fact. Three fixed templates.
std::vector<std::string> SurfaceVariants(absl::string_view question);

// `fact` with its last user turn replaced by each surface variant; ids get "#v1".."#v3". Empty when
// there is no user turn.
std::vector<Case> SurfaceVariantCases(const Case& fact);

}  // namespace evolora
