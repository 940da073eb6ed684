#pragma once

#include <cstdint>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace evolora {

// Strategies behind the one interface Decide. Hard masks hold for each of them; the evidence
// conditions of LoRA (a failing patch on record, two sub-intents) hold for `rules` only, because
// the others exist to be compared with it.
enum class RouterKind {
  kRules,          // the decision table; default
  kAlwaysPatch,    // text for every failure
  kAlwaysLora,     // weights for every failure
  kFixedSchedule,  // text now, weights every fixed_schedule_every examples
  kRandom,         // uniform over the open actions, by seed and case id
};
const char* RouterName(RouterKind router);  // "rules", "always-patch", ...
// InvalidArgument names the unknown word and lists the known ones.
absl::StatusOr<RouterKind> ParseRouter(absl::string_view name);

// Prices in one unit: the cost of prefilling one token (2 N FLOP for N weights, so N cancels).
struct Prices {
  double horizon_requests = 10000;  // H: requests of all kinds that the change is judged over
  // v: what one avoided failure is worth: one retry of a 1.5k-token request with 250 generated
  // tokens, a generated token at twice the price of a prefilled one.
  double value_per_fix = 2000;
  double prefix_cache_hit = 0;    // h: share of patch tokens that the server's prefix cache saves
  double train_factor = 3;        // a trained token costs 2..3 prefilled ones (4..6 N FLOP)
  double build_text = 500;        // proposing and storing a patch
  double verify_text = 5000;      // gate replays of a text candidate
  double verify_weights = 50000;  // gate replays of an adapter, each with effect proof and export
  double slot_tokens_per_request = 2;  // adapter slot and lost prefix sharing, per request in scope
  double regression_text = 0.002;      // expected regressions per request in scope
  double regression_weights = 0.02;
  double value_per_regression = 4000;  // breaking what worked costs twice a fix
  double delay_requests_text = 16;     // requests until the change is live: one window
  double delay_requests_weights = 64;
  double volatile_half_life_requests =
      2000;                             // a volatile fact is worth half after so many requests
  double default_example_tokens = 200;  // of a training example whose tokens nobody counted
};

// P_fix of an adapter before anything was measured, by failure class, and what share of it siblings
// get. The gate outcomes of the ticket replace them: an accepted gain is used as it is, each
// rejection halves the prior. Low for knowledge: facts trained into weights seldom generalise.
struct LoraPriors {
  double adherence = 0.6;
  double unreliable = 0.5;
  double absent_with_teacher = 0.4;
  double procedure = 0.4;
  double knowledge = 0.1;
  double sibling_factor = 0.8;
};

struct LoraRules {
  int64_t min_examples = 32;  // verified, unique
  int64_t min_sub_intents = 2;
  double max_verifier_noise = 0.05;
  int rank = 16;
  double alpha = 32;
  double learning_rate = 3e-4;
  int64_t example_visits = 384;  // epochs = visits / examples, rounded, within 1..max_epochs
  int max_epochs = 4;
  double anchor_replay_share =
      0.25;  // 0 when the adapter is scoped and disjoint from other requests
  int max_trigger_terms = 8;
  // Optimal stopping (train_when.h).
  double quality_tau = 32;      // examples until the quality curve 1 - exp(-n / tau) reaches 63 %
  double window_requests = 16;  // one look-ahead step
  double retrain_growth = 1.5;  // examples must grow by this factor before the ticket trains again
};

struct DecisionPolicy {
  RouterKind router = RouterKind::kRules;
  uint64_t seed = 0;  // of kRandom only
  Prices prices;
  LoraPriors priors;
  LoraRules lora;
  int64_t max_patch_tokens = 512;  // a larger patch is over budget
  int max_rejected_patches = 2;    // by the gate, per cluster (skills) or per case (facts)
  double low_rate = 0.4;           // the cluster's pooled pp is on record as failing when
  double low_confidence = 0.75;    // P(pp < low_rate) >= low_confidence
  int64_t fixed_schedule_every = 32;
  double consolidate_margin = 2;  // saved tokens over training cost before patches are consolidated
};

}  // namespace evolora
