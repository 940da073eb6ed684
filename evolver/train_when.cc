#include "evolora/evolver/train_when.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "evolora/evolver/decide.h"
#include "scope.h"
#include "utility.h"

namespace evolora {
namespace {

// The look-ahead of train_when.h for one ticket.
struct Outlook {
  double now = 0;   // V(n, R)
  double wait = 0;  // V(n + a w, R - w)
  double failures_per_request = 0;
  double examples_per_request = 0;
  double window = 0;
  double quality = 0;
};

double Value(double examples, double remaining, double fix_rate, double failures_per_request,
             double tokens_per_example, const DecisionPolicy& policy) {
  const double quality = fix_rate * -std::expm1(-examples / policy.lora.quality_tau);
  const int epochs = EpochsFor(static_cast<int64_t>(std::llround(examples)), policy.lora);
  return quality * failures_per_request * policy.prices.value_per_fix * remaining -
         policy.prices.train_factor * examples * tokens_per_example * epochs;
}

Outlook LookAhead(const TicketSummary& ticket, int64_t requests_seen, double remaining,
                  const DecisionPolicy& policy) {
  const auto n = static_cast<double>(ticket.examples.size());
  const double tokens = ticket.mean_example_tokens > 0 ? ticket.mean_example_tokens
                                                       : policy.prices.default_example_tokens;
  const double fix_rate = WeightsFixRate(ticket.failure_class, &ticket, policy.priors);
  Outlook o;
  o.failures_per_request = ClusterShare(ticket.num_failures, requests_seen);
  o.examples_per_request = n / static_cast<double>(std::max<int64_t>(1, requests_seen));
  o.window = std::min(policy.lora.window_requests, remaining);
  o.quality = fix_rate * -std::expm1(-n / policy.lora.quality_tau);
  o.now = Value(n, remaining, fix_rate, o.failures_per_request, tokens, policy);
  o.wait = Value(n + o.examples_per_request * o.window, remaining - o.window, fix_rate,
                 o.failures_per_request, tokens, policy);
  return o;
}

bool IsCandidate(const TicketSummary& ticket, int max_crashes, const DecisionPolicy& policy) {
  if (ticket.state != TicketState::kWaiting && ticket.state != TicketState::kQueued) return false;
  if (!TrainingMasks(ticket, max_crashes, policy).empty()) return false;
  const auto n = static_cast<double>(ticket.examples.size());
  const auto trained = static_cast<double>(ticket.trained_examples);
  if (policy.router == RouterKind::kFixedSchedule) {
    return n - trained >= static_cast<double>(policy.fixed_schedule_every);
  }
  return trained == 0 || n >= trained * policy.lora.retrain_growth;
}

bool ShouldTrain(const Outlook& o, int64_t remaining, RouterKind router) {
  if (router == RouterKind::kFixedSchedule || remaining <= 0) return true;
  return o.now > 0 && o.now >= o.wait;
}

// Where the training texts come from, by what the probes showed; a class that no probe settled has
// only the answers of the feedback.
DataSource SourceFor(FailureClass failure_class) {
  switch (failure_class) {
    case FailureClass::kUnreliable:
      return DataSource::kOwnVerifiedSamples;
    case FailureClass::kAdherence:
    case FailureClass::kMissingProcedure:
      return DataSource::kHintedSelfSamples;
    default:
      return DataSource::kTeacherAnswers;
  }
}

std::string ReasonOf(const TicketSummary& ticket, const Outlook& o, int64_t remaining) {
  if (remaining <= 0) {
    return absl::StrFormat(
        "train %s now: the stream is at its end and %d verified examples pass the "
        "masks; nothing is left to wait for.",
        ticket.cluster, ticket.examples.size());
  }
  return absl::StrFormat(
      "train %s now: with %d verified examples the rest of the stream (%d requests) is worth %.0f "
      "prefill tokens, after one more window of %.0f requests %.0f.",
      ticket.cluster, ticket.examples.size(), remaining, o.now, o.window, o.wait);
}

TrainingPlan PlanFor(const TicketSummary& ticket, const Outlook& o, const DecisionPolicy& policy,
                     const StreamOutlook& outlook) {
  TrainingPlan plan;
  plan.ticket = ticket.id;
  plan.cluster = ticket.cluster;
  for (const VerifiedExample& example : ticket.examples) {
    plan.example_case_ids.push_back(example.case_id);
  }
  plan.data_source = SourceFor(ticket.failure_class);
  const auto texts = outlook.texts.find(ticket.cluster);
  plan.scope = SuggestScope(texts == outlook.texts.end() ? ScopeTexts{} : texts->second,
                            policy.lora.max_trigger_terms);
  const auto n = static_cast<int64_t>(ticket.examples.size());
  plan.recipe = {.rank = policy.lora.rank,
                 .alpha = policy.lora.alpha,
                 .learning_rate = policy.lora.learning_rate,
                 .epochs = EpochsFor(n, policy.lora),
                 .anchor_replay_share = plan.scope.disjoint ? 0 : policy.lora.anchor_replay_share};
  plan.numbers = {{"examples", static_cast<double>(n)},
                  {"sub_intents", static_cast<double>(ticket.num_sub_intents)},
                  {"value_now", o.now},
                  {"value_wait", o.wait},
                  {"failures_per_request", o.failures_per_request},
                  {"examples_per_request", o.examples_per_request},
                  {"quality", o.quality},
                  {"stream_remaining", static_cast<double>(outlook.stream_remaining)},
                  {"train_tokens", TrainTokens(&ticket, policy)}};
  plan.reason = ReasonOf(ticket, o, outlook.stream_remaining);
  return plan;
}

}  // namespace

ScopeSuggestion SuggestScope(const ScopeTexts& texts, int max_terms) {
  ScopeSuggestion scope;
  scope.trigger.all = true;
  if (texts.inside.empty() || texts.outside.empty()) {
    scope.reason = "all requests: no request texts to tell apart";
    return scope;
  }
  absl::StatusOr<DerivedScope> derived = DeriveScope(texts.inside, texts.outside, max_terms);
  if (!derived.ok()) {
    scope.reason = absl::StrCat("all requests: ", derived.status().message());
    return scope;
  }
  scope.trigger = std::move(derived->trigger);
  scope.disjoint = derived->outside_matches == 0;
  scope.reason = absl::StrCat("matches all ", texts.inside.size(), " requests of the cluster and ",
                              derived->outside_matches, " of ", texts.outside.size(), " others");
  return scope;
}

std::optional<TrainingPlan> TrainWhen(const LedgerSnapshot& snapshot, const DecisionPolicy& policy,
                                      const StreamOutlook& outlook) {
  if (policy.router == RouterKind::kAlwaysPatch) return std::nullopt;
  const auto remaining = static_cast<double>(std::max<int64_t>(0, outlook.stream_remaining));
  const TicketSummary* best = nullptr;
  Outlook best_outlook;
  for (const TicketSummary& ticket : snapshot.tickets) {
    if (!IsCandidate(ticket, snapshot.max_training_crashes, policy)) continue;
    const Outlook o = LookAhead(ticket, snapshot.requests_seen, remaining, policy);
    if (!ShouldTrain(o, outlook.stream_remaining, policy.router)) continue;
    if (best == nullptr || o.now > best_outlook.now) {
      best = &ticket;
      best_outlook = o;
    }
  }
  if (best == nullptr) return std::nullopt;
  return PlanFor(*best, best_outlook, policy, outlook);
}

}  // namespace evolora
