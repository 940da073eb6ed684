#include "evolora/evolver/decide.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "evolora/core/interval.h"
#include "evolora/core/random.h"
#include "masks.h"
#include "utility.h"

namespace evolora {
namespace {

using C = FailureClass;

// The text action of a failure; abstain when there is none.
Action TextAction(const Diagnosis& d) {
  if (d.failure_class == C::kPlumbing) return Action::kPatchTool;
  if (d.failure_class == C::kTriggerMiss) return Action::kPatchTrigger;
  switch (d.candidate) {
    case PatchKind::kKnowledge:
      return Action::kPatchKnowledge;
    case PatchKind::kSkill:
      return Action::kPatchSkill;
    case PatchKind::kPrompt:
      return Action::kPatchPrompt;
    case PatchKind::kTool:
      return Action::kPatchTool;
    case PatchKind::kNone:
      break;
  }
  return Action::kAbstain;
}

// The levers of the class's row in the decision table, in order of preference.
std::vector<Lever> RowOf(FailureClass failure_class) {
  switch (failure_class) {
    case C::kMissingKnowledge:
    case C::kMissingProcedure:
    case C::kOverSpecificPatch:
      return {Lever::kText, Lever::kWeights};
    case C::kPlumbing:
    case C::kTriggerMiss:
      return {Lever::kText};
    case C::kAdherence:
    case C::kUnreliable:
    case C::kAbsentCapability:
      return {Lever::kWeights};
    case C::kUndetermined:
    case C::kNotReproducible:
    case C::kVerifierWrong:
    case C::kAmbiguous:
      break;
  }
  return {};
}

// The ticket as it will be with this failure in it.
TicketSummary WithFailure(const TicketSummary* ticket, const Diagnosis& d) {
  TicketSummary t = ticket == nullptr ? TicketSummary{} : *ticket;
  const ProbeRecord record = RecordOf(d);
  if (ticket == nullptr) {
    t.id = TicketId(d.cluster);
    t.cluster = d.cluster;
    t.num_failures = 1;
  }
  t.pp_successes += record.pp_successes;
  t.pp_trials += record.pp_trials;
  if (!IsVerifiedExample(d)) return t;
  const bool known = std::any_of(t.examples.begin(), t.examples.end(),
                                 [&](const VerifiedExample& e) { return e.case_id == d.case_id; });
  if (known) return t;
  const bool new_intent =
      std::none_of(t.examples.begin(), t.examples.end(),
                   [&](const VerifiedExample& e) { return e.sub_intent == d.sub_intent; });
  t.num_sub_intents += new_intent ? 1 : 0;
  VerifiedExample example;
  example.case_id = d.case_id;
  example.sub_intent = d.sub_intent;
  t.examples.push_back(std::move(example));
  return t;
}

// Everything a router may look at.
struct Options {
  Action text = Action::kAbstain;
  Action weights = Action::kFeedLora;
  bool text_open = false;
  bool weights_open = false;
  double u_text = 0;
  double u_weights = 0;
};

Action ChooseByRules(const Diagnosis& d, const Options& o) {
  const std::vector<Lever> row = RowOf(d.failure_class);
  const bool preferred_is_text = !row.empty() && row.front() == Lever::kText;
  for (const Lever lever : row) {
    if (lever == Lever::kText && o.text_open && o.u_text > 0) return o.text;
    // Feeding a ticket costs nothing, only training must pay; but an open patch that does not pay
    // says that the failure is too rare for any change.
    const bool is_rare = preferred_is_text && o.text_open;
    const bool pays = o.u_weights > 0 || (o.weights == Action::kFeedLora && !is_rare);
    if (lever == Lever::kWeights && o.weights_open && pays) return o.weights;
  }
  return d.failure_class == C::kUndetermined ? Action::kValidationCase : Action::kAbstain;
}

Action ChooseAtRandom(const Diagnosis& d, const Options& o, uint64_t seed) {
  std::vector<Action> open = {Action::kAbstain};
  if (o.text_open) open.push_back(o.text);
  if (o.weights_open) open.push_back(o.weights);
  Random random(DeriveSeed(seed, d.case_id));
  return open[random.NextBelow(open.size())];
}

Action ChooseBySchedule(const Options& o, const TicketSummary& ticket,
                        const DecisionPolicy& policy) {
  const int64_t fresh = static_cast<int64_t>(ticket.examples.size()) - ticket.trained_examples;
  if (o.weights_open && fresh >= policy.fixed_schedule_every) return Action::kScheduleLora;
  return o.text_open ? o.text : Action::kAbstain;
}

Action Choose(const Diagnosis& d, const Options& o, const TicketSummary& ticket,
              const DecisionPolicy& policy) {
  switch (policy.router) {
    case RouterKind::kRules:
      break;
    case RouterKind::kAlwaysPatch:
      return o.text_open ? o.text : Action::kAbstain;
    case RouterKind::kAlwaysLora:
      return o.weights_open ? o.weights : Action::kAbstain;
    case RouterKind::kFixedSchedule:
      return ChooseBySchedule(o, ticket, policy);
    case RouterKind::kRandom:
      return ChooseAtRandom(d, o, policy.seed);
  }
  return ChooseByRules(d, o);
}

void SetValidationCase(const Diagnosis& d, Decision& decision) {
  if (!d.untrusted_text.empty()) return;
  if (d.failure_class == C::kVerifierWrong) {
    decision.validation_reason = "verifier_disputed";
  } else if (d.failure_class == C::kAmbiguous) {
    decision.validation_reason = "ambiguous";
  } else if (decision.action != Action::kAbstain) {
    decision.validation_reason = "failure";
  } else if (d.failure_class == C::kNotReproducible) {
    // Passing in every replay, it protects what works now; a flake would fail later gates at
    // random.
    const MeasuredRate* as_is = FindRate(d, ProbeKind::kAsIs, ProbeTarget::kOriginal);
    if (as_is != nullptr && as_is->rate == 1) decision.validation_reason = "failure";
  }
  decision.add_validation_case = !decision.validation_reason.empty();
}

void AddProbeNumbers(const Diagnosis& d, std::map<std::string, double>& numbers) {
  for (const MeasuredRate& rate : d.rates) {
    const char* suffix = rate.target == ProbeTarget::kSiblings ? "_siblings" : "";
    numbers[absl::StrCat(ProbeKindName(rate.kind), suffix)] = rate.rate;
  }
  if (d.activation_gap) numbers["activation_gap"] = *d.activation_gap;
  if (d.adherence_gap) numbers["adherence_gap"] = *d.adherence_gap;
  if (d.portability_gap) numbers["portability_gap"] = *d.portability_gap;
  numbers["confidence"] = d.confidence;
  numbers["patch_tokens"] = static_cast<double>(d.patch_tokens);
}

std::string BreakEvenInWords(const Economy& e) {
  if (!e.break_even_requests) {
    return "Break-even: there are no patch tokens that an adapter could save.";
  }
  return absl::StrFormat(
      "Break-even: training %.0f tokens pays back against a patch of %.0f tokens after %.0f "
      "requests "
      "that carry it.",
      e.train_tokens, e.patch_tokens, *e.break_even_requests);
}

std::string MasksInWords(const std::vector<FiredMask>& masks) {
  if (masks.empty()) return "No mask fired.";
  return absl::StrCat("Masks: ",
                      absl::StrJoin(masks, "; ",
                                    [](std::string* out, const FiredMask& m) {
                                      absl::StrAppend(out, m.rule, " closes ", m.closes, " (",
                                                      m.why, ")");
                                    }),
                      ".");
}

std::string ReasonOf(const Diagnosis& d, const Decision& decision, const Options& o,
                     const Economy& e, const DecisionPolicy& policy) {
  std::string head = absl::StrCat(ActionName(decision.action), ": ", d.reason, ".");
  if (decision.action == Action::kAbstain && policy.router == RouterKind::kRules &&
      !RowOf(d.failure_class).empty()) {
    absl::StrAppend(&head, " Every open action costs more than it brings, or is masked.");
  }
  return absl::StrFormat(
      "%s Utility per failure over %.0f requests, in prefill tokens: text %.0f, weights %.0f. %s "
      "%s",
      head, policy.prices.horizon_requests, o.u_text, o.u_weights, MasksInWords(decision.masks),
      BreakEvenInWords(e));
}

Options OptionsOf(const Diagnosis& d, const TicketSummary& ticket, int max_crashes,
                  const Economy& e, const DecisionPolicy& policy, std::vector<FiredMask>& masks) {
  Options o;
  o.text = TextAction(d);
  o.text_open = o.text != Action::kAbstain && !IsClosed(Lever::kText, masks);
  o.weights_open = !IsClosed(Lever::kWeights, masks);
  o.u_text = Utility(o.text, e, policy.prices);
  o.u_weights = Utility(Action::kFeedLora, e, policy.prices);
  const std::vector<FiredMask> waiting = TrainingMasks(ticket, max_crashes, policy);
  o.weights = waiting.empty() ? Action::kScheduleLora : Action::kFeedLora;
  masks.insert(masks.end(), waiting.begin(), waiting.end());
  return o;
}

std::vector<Alternative> AlternativesOf(const Options& o) {
  std::vector<Alternative> all = {
      {.action = Action::kAbstain},
      {.action = o.weights, .utility = o.u_weights, .masked = !o.weights_open}};
  if (o.text != Action::kAbstain) {
    all.push_back({.action = o.text, .utility = o.u_text, .masked = !o.text_open});
  }
  std::stable_sort(all.begin(), all.end(), [](const Alternative& a, const Alternative& b) {
    return a.utility > b.utility;
  });
  return all;
}

}  // namespace

Lever LeverOf(Action action) {
  switch (action) {
    case Action::kPatchKnowledge:
    case Action::kPatchSkill:
    case Action::kPatchTool:
    case Action::kPatchPrompt:
    case Action::kPatchTrigger:
      return Lever::kText;
    case Action::kFeedLora:
    case Action::kScheduleLora:
    case Action::kConsolidate:
      return Lever::kWeights;
    case Action::kAbstain:
    case Action::kValidationCase:
    case Action::kRevert:
      break;
  }
  return Lever::kNone;
}

Decision Decide(const Diagnosis& d, const LedgerSnapshot& snapshot, const DecisionPolicy& policy) {
  const TicketSummary ticket = WithFailure(FindTicket(snapshot, d.cluster), d);
  const Economy economy = EconomyOf(d, &ticket, snapshot.requests_seen, policy);
  Decision decision;
  decision.cluster = d.cluster;
  decision.case_id = d.case_id;
  decision.episode_id = d.episode_id;
  decision.masks = FailureMasks(d, &ticket, policy);
  const Options options =
      OptionsOf(d, ticket, snapshot.max_training_crashes, economy, policy, decision.masks);
  decision.action = Choose(d, options, ticket, policy);
  decision.lever = LeverOf(decision.action);
  decision.record_example = IsVerifiedExample(d);
  SetValidationCase(d, decision);
  AddProbeNumbers(d, decision.numbers);
  AddNumbers(economy, decision.numbers);
  decision.numbers["examples"] = static_cast<double>(ticket.examples.size());
  decision.numbers["sub_intents"] = static_cast<double>(ticket.num_sub_intents);
  decision.numbers["u_text"] = options.u_text;
  decision.numbers["u_weights"] = options.u_weights;
  decision.alternatives = AlternativesOf(options);
  decision.reason = ReasonOf(d, decision, options, economy, policy);
  return decision;
}

Decision ReviewTicket(const TicketSummary& ticket, int64_t requests_seen, const FieldCounts& field,
                      const DecisionPolicy& policy) {
  Decision decision;
  decision.cluster = ticket.cluster;
  const Interval now = WilsonInterval(field.successes, field.requests);
  const Interval before = WilsonInterval(field.successes_before, field.requests_before);
  const double carriers =
      policy.prices.horizon_requests * ClusterShare(ticket.num_failures, requests_seen);
  const double saved =
      carriers * field.patch_tokens_per_request * (1 - policy.prices.prefix_cache_hit);
  const double training =
      policy.prices.train_factor * TrainTokens(&ticket, policy) + policy.prices.verify_weights;
  decision.numbers = {{"field_high", now.high},
                      {"before_low", before.low},
                      {"patch_tokens_saved", saved},
                      {"training_cost", training}};
  const bool has_examples =
      static_cast<int64_t>(ticket.examples.size()) >= policy.lora.min_examples;
  if (now.high < before.low) {
    decision.action = Action::kRevert;
    decision.add_validation_case = true;
    decision.validation_reason = "failure";
    decision.reason = absl::StrFormat(
        "revert: %d of %d field requests pass, %d of %d did before the change; the intervals do "
        "not "
        "overlap.",
        field.successes, field.requests, field.successes_before, field.requests_before);
  } else if (ticket.state == TicketState::kPatched && has_examples &&
             !field.holds_private_or_volatile && saved > policy.consolidate_margin * training) {
    decision.action = Action::kConsolidate;
    decision.add_validation_case = true;
    decision.validation_reason = "failure";
    decision.reason = absl::StrFormat(
        "consolidate: the cluster's patches cost %.0f tokens over %.0f requests, an adapter %.0f.",
        saved, policy.prices.horizon_requests, training);
  } else {
    decision.reason = absl::StrFormat(
        "abstain: no field regression, and patches cost %.0f tokens against %.0f for an adapter.",
        saved, training);
  }
  decision.lever = LeverOf(decision.action);
  return decision;
}

}  // namespace evolora
