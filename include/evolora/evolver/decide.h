#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/strings/string_view.h"
#include "evolora/core/json.h"
#include "evolora/evolver/diagnose.h"
#include "evolora/evolver/failure_class.h"
#include "evolora/evolver/ledger.h"
#include "evolora/evolver/policy.h"

namespace evolora {

enum class Action {
  kAbstain,
  kPatchKnowledge,
  kPatchSkill,
  kPatchTool,
  kPatchPrompt,
  kPatchTrigger,
  kValidationCase,  // the case is kept for later gates, nothing else changes
  kFeedLora,        // the example goes to the cluster's ticket, which may not train yet
  kScheduleLora,    // ... and the ticket may be queued; TrainWhen says when it trains
  kConsolidate,     // train the patches of the cluster into an adapter, then retire them
  kRevert,
};
const char* ActionName(Action action);
Lever LeverOf(Action action);

// A named rule that closed a lever or an action before any score.
struct FiredMask {
  std::string rule;    // e.g. "private_never_weights"; all names are in evolver/POLICY.md
  std::string closes;  // "text", "weights", "schedule" or "all"
  std::string why;     // with the numbers
};

struct Alternative {
  Action action = Action::kAbstain;
  double utility = 0;  // prefill tokens over the horizon, per failure
  bool masked = false;
};

// What to do about one failure (Decide) or one ticket (ReviewTicket), and why.
struct Decision {
  std::string cluster;
  std::string case_id;
  std::string episode_id;
  Action action = Action::kAbstain;
  Lever lever = Lever::kNone;
  bool add_validation_case = false;
  std::string validation_reason;  // "failure", "verifier_disputed" or "ambiguous"
  bool record_example = false;    // the case is a verified example for the ticket
  std::string reason;             // in words, with the break-even
  std::map<std::string, double> numbers;
  std::vector<FiredMask> masks;
  std::vector<Alternative> alternatives;  // best utility first; abstain (utility 0) is always one
};

// Decides one failure. Pure: same input, same output.
//
// Masks first (POLICY.md lists them), then the candidates of the class's table row in order: the
// first open one with a positive utility is taken, else abstain. feed_lora costs nothing and needs
// none, unless the row's open patch does not pay either: then the failure is too rare for any
// change. Utility of an action a, per failure, in prefill tokens:
//   U(a) = n g v (P_fix + P_sib)/2  -  n_t t (1 - h)  -  n c_slot  -  n rho v_reg
//          -  (C_build + C_verify)/m  -  d s v
//   m  distinct failures of the cluster; in the costs paid once, 1 for a knowledge entry, which
//      serves its own question only
//   s  the cluster's smoothed share of requests / m;  n = H s  requests of this failure within H
//   g  mean validity over H, below 1 for a volatile fact;  d  requests until the change is live
//   t  patch tokens, carried by n_t requests: n, for a prompt line H/m
//   P  (successes + 1)/(trials + 2) of the probes; for weights a prior or what the gate measured
// Break-even of an adapter against a patch of t tokens:
//   R* = train_factor T_train / (t (1 - h)) requests that carry the patch.
// The snapshot may or may not hold this failure already; its example counts once, by case id.
Decision Decide(const Diagnosis& diagnosis, const LedgerSnapshot& snapshot,
                const DecisionPolicy& policy);

// How the live change of a ticket does in the field.
struct FieldCounts {
  int64_t requests = 0;  // in scope, since the change went live
  int64_t successes = 0;
  int64_t requests_before = 0;  // the same scope before the change
  int64_t successes_before = 0;
  double patch_tokens_per_request = 0;  // mean, of the cluster's patches
  bool holds_private_or_volatile = false;
};

// Upkeep of a live ticket: revert when the field rate is below the earlier one (Wilson intervals,
// 95 %, do not overlap), consolidate when the patch tokens over the horizon pass consolidate_margin
// times the training cost and nothing private or volatile is among them, else abstain.
Decision ReviewTicket(const TicketSummary& ticket, int64_t requests_seen, const FieldCounts& field,
                      const DecisionPolicy& policy);

// The masks that keep the ticket from training now; empty = it may. Used by Decide and TrainWhen.
std::vector<FiredMask> TrainingMasks(const TicketSummary& ticket, int max_training_crashes,
                                     const DecisionPolicy& policy);

// For the evidence log and the report; one way.
Json DecisionToJson(const Decision& decision);

}  // namespace evolora
