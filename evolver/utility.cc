#include "utility.h"

#include <algorithm>
#include <cmath>

namespace evolora {
namespace {

constexpr double kToolNotePrior = 0.3;  // a note about a broken tool is not probed; seldom enough

// (successes + 1) / (trials + 2) of the first measured kind.
std::optional<double> Shrunk(const Diagnosis& d, ProbeTarget target) {
  for (const ProbeKind kind : {ProbeKind::kRetrievedPatch, ProbeKind::kForcedPatch}) {
    // What a trigger fix promises is what the forced patch reaches.
    const bool skip =
        d.failure_class == FailureClass::kTriggerMiss && kind == ProbeKind::kRetrievedPatch;
    const MeasuredRate* rate = skip ? nullptr : FindRate(d, kind, target);
    if (rate == nullptr) continue;
    return static_cast<double>(rate->counts.successes + 1) /
           static_cast<double>(rate->counts.trials + 2);
  }
  return std::nullopt;
}

// Mean of 2^(-t / half_life) over t in [0, horizon].
double MeanValidity(double horizon, double half_life) {
  const double decay = std::log(2.0) * horizon / half_life;
  return decay < 1e-9 ? 1 : -std::expm1(-decay) / decay;
}

double PriorOf(FailureClass failure_class, const LoraPriors& priors) {
  switch (failure_class) {
    case FailureClass::kAdherence:
      return priors.adherence;
    case FailureClass::kUnreliable:
      return priors.unreliable;
    case FailureClass::kAbsentCapability:
      return priors.absent_with_teacher;
    case FailureClass::kMissingProcedure:
    case FailureClass::kOverSpecificPatch:
      return priors.procedure;
    case FailureClass::kMissingKnowledge:
    case FailureClass::kTriggerMiss:
      return priors.knowledge;
    default:
      return 0;
  }
}

}  // namespace

double ClusterShare(int64_t num_failures, int64_t requests_seen) {
  return std::min(1.0,
                  static_cast<double>(num_failures + 1) / static_cast<double>(requests_seen + 2));
}

int EpochsFor(int64_t num_examples, const LoraRules& rules) {
  if (num_examples <= 0) return rules.max_epochs;
  const double epochs =
      std::round(static_cast<double>(rules.example_visits) / static_cast<double>(num_examples));
  return std::clamp(static_cast<int>(epochs), 1, rules.max_epochs);
}

double TrainTokens(const TicketSummary* ticket, const DecisionPolicy& policy) {
  const int64_t have = ticket == nullptr ? 0 : static_cast<int64_t>(ticket->examples.size());
  const int64_t examples = std::max(have, policy.lora.min_examples);
  const double tokens = ticket == nullptr || ticket->mean_example_tokens <= 0
                            ? policy.prices.default_example_tokens
                            : ticket->mean_example_tokens;
  return static_cast<double>(examples) * tokens * EpochsFor(examples, policy.lora);
}

double WeightsFixRate(FailureClass failure_class, const TicketSummary* ticket,
                      const LoraPriors& priors) {
  double p = PriorOf(failure_class, priors);
  if (ticket == nullptr) return p;
  for (const GateRecord& outcome : ticket->gate_outcomes) {
    if (outcome.result == GateResult::kAccept) p = std::clamp(outcome.gain, 0.0, 1.0);
    if (outcome.result == GateResult::kReject) p /= 2;
  }
  return p;
}

Economy EconomyOf(const Diagnosis& d, const TicketSummary* ticket, int64_t requests_seen,
                  const DecisionPolicy& policy) {
  const Prices& prices = policy.prices;
  const int64_t failures = std::max<int64_t>(1, ticket == nullptr ? 1 : ticket->num_failures);
  Economy e;
  e.failures = static_cast<double>(failures);
  e.share = ClusterShare(failures, requests_seen) / e.failures;
  e.requests = prices.horizon_requests * e.share;
  e.validity =
      d.is_volatile ? MeanValidity(prices.horizon_requests, prices.volatile_half_life_requests) : 1;
  e.patch_tokens = static_cast<double>(d.patch_tokens) * (1 - prices.prefix_cache_hit);
  e.train_tokens = TrainTokens(ticket, policy);
  const double no_probe = d.failure_class == FailureClass::kPlumbing ? kToolNotePrior : 0.5;
  e.p_fix_text = Shrunk(d, ProbeTarget::kOriginal).value_or(no_probe);
  e.p_sib_text = Shrunk(d, ProbeTarget::kSiblings).value_or(e.p_fix_text);
  e.p_fix_weights = WeightsFixRate(d.failure_class, ticket, policy.priors);
  e.p_sib_weights = e.p_fix_weights * policy.priors.sibling_factor;
  if (e.patch_tokens > 0) {
    e.break_even_requests = prices.train_factor * e.train_tokens / e.patch_tokens;
  }
  return e;
}

double Utility(Action action, const Economy& e, const Prices& prices) {
  if (action == Action::kAbstain || action == Action::kValidationCase) return 0;
  const bool weights = LeverOf(action) == Lever::kWeights;
  const double p = weights ? e.p_fix_weights + e.p_sib_weights : e.p_fix_text + e.p_sib_text;
  const double gain = e.requests * e.validity * prices.value_per_fix * p / 2;
  const double carriers =
      action == Action::kPatchPrompt ? prices.horizon_requests / e.failures : e.requests;
  const double per_request =
      weights ? e.requests * prices.slot_tokens_per_request : carriers * e.patch_tokens;
  const double served = action == Action::kPatchKnowledge ? 1 : e.failures;
  const double once = weights ? prices.train_factor * e.train_tokens + prices.verify_weights
                              : prices.build_text + prices.verify_text;
  const double regressions = e.requests * prices.value_per_regression *
                             (weights ? prices.regression_weights : prices.regression_text);
  const double delay = (weights ? prices.delay_requests_weights : prices.delay_requests_text) *
                       e.share * prices.value_per_fix;
  return gain - per_request - once / served - regressions - delay;
}

void AddNumbers(const Economy& e, std::map<std::string, double>& numbers) {
  numbers["distinct_failures"] = e.failures;
  numbers["failure_share"] = e.share;
  numbers["requests_of_failure"] = e.requests;
  numbers["validity"] = e.validity;
  numbers["patch_tokens_uncached"] = e.patch_tokens;
  numbers["train_tokens"] = e.train_tokens;
  numbers["p_fix_text"] = e.p_fix_text;
  numbers["p_sib_text"] = e.p_sib_text;
  numbers["p_fix_weights"] = e.p_fix_weights;
  numbers["p_sib_weights"] = e.p_sib_weights;
  if (e.break_even_requests) numbers["break_even_requests"] = *e.break_even_requests;
}

}  // namespace evolora
