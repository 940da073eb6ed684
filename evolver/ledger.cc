#include "evolora/evolver/ledger.h"

#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/str_cat.h"
#include "evolora/core/sha256.h"
#include "evolora/core/status_macros.h"
#include "evolora/evolver/text_guard.h"

namespace evolora {
namespace {

using S = TicketState;

// The table of ledger.h, row by row.
constexpr std::array<std::pair<S, S>, 31> kTransitions = {{
    {S::kOpen, S::kReproduced},    {S::kOpen, S::kAbstained},       {S::kReproduced, S::kPatched},
    {S::kReproduced, S::kWaiting}, {S::kReproduced, S::kAbstained}, {S::kPatched, S::kWaiting},
    {S::kPatched, S::kWatched},    {S::kPatched, S::kReverted},     {S::kPatched, S::kAbstained},
    {S::kWaiting, S::kPatched},    {S::kWaiting, S::kQueued},       {S::kWaiting, S::kAbstained},
    {S::kQueued, S::kTraining},    {S::kQueued, S::kWaiting},       {S::kQueued, S::kAbstained},
    {S::kTraining, S::kGated},     {S::kTraining, S::kQueued},      {S::kTraining, S::kAbstained},
    {S::kGated, S::kPromoted},     {S::kGated, S::kWaiting},        {S::kGated, S::kAbstained},
    {S::kPromoted, S::kWatched},   {S::kPromoted, S::kReverted},    {S::kWatched, S::kWaiting},
    {S::kWatched, S::kPatched},    {S::kWatched, S::kReverted},     {S::kReverted, S::kReproduced},
    {S::kReverted, S::kWaiting},   {S::kReverted, S::kAbstained},   {S::kAbstained, S::kReproduced},
    {S::kAbstained, S::kWaiting},
}};

int64_t CrashesInRow(const Ticket& ticket) {
  int64_t crashes = 0;
  for (auto it = ticket.training_attempts.rbegin(); it != ticket.training_attempts.rend(); ++it) {
    if (it->completed) break;
    ++crashes;
  }
  return crashes;
}

absl::Status Missing(const Ticket& ticket, TicketState to, absl::string_view what) {
  return absl::FailedPreconditionError(absl::StrCat("ticket ", ticket.id, " (", ticket.cluster,
                                                    "): ", TicketStateName(ticket.state), " -> ",
                                                    TicketStateName(to), " needs ", what));
}

bool LastAdapterAccepted(const Ticket& ticket) {
  if (ticket.gate_outcomes.empty() || ticket.training_attempts.empty()) return false;
  const GateRecord& outcome = ticket.gate_outcomes.back();
  return outcome.result == GateResult::kAccept &&
         outcome.adapter == ticket.training_attempts.back().adapter;
}

// What must be on record before the ticket may enter `to`.
absl::Status CheckTransitionEvidence(const Ticket& ticket, TicketState to, int max_crashes) {
  switch (to) {
    case S::kReproduced:
      if (ticket.probes.empty()) return Missing(ticket, to, "a probe record");
      break;
    case S::kPatched:
      if (std::none_of(ticket.patch_attempts.begin(), ticket.patch_attempts.end(),
                       [](const PatchAttempt& a) { return a.accepted; })) {
        return Missing(ticket, to, "an accepted patch attempt");
      }
      break;
    case S::kQueued:
      if (ticket.examples.empty()) return Missing(ticket, to, "a verified example");
      if (CrashesInRow(ticket) >= max_crashes) {
        return Missing(ticket, to,
                       absl::StrCat("fewer crashed trainings: ", CrashesInRow(ticket),
                                    " in a row, limit ", max_crashes));
      }
      break;
    case S::kGated:
      if (ticket.training_attempts.empty() || !ticket.training_attempts.back().completed) {
        return Missing(ticket, to, "a completed training as the last attempt");
      }
      break;
    case S::kPromoted:
      if (!LastAdapterAccepted(ticket)) {
        return Missing(ticket, to, "an accepting gate outcome of the last trained adapter");
      }
      break;
    default:
      break;
  }
  return absl::OkStatus();
}

// Applies one payload to its ticket.
class Applier {
 public:
  Applier(Ticket& ticket, int max_crashes) : ticket_(ticket), max_crashes_(max_crashes) {}

  absl::Status operator()(const Transition& transition) const {
    if (!CanTransition(ticket_.state, transition.to)) {
      return absl::FailedPreconditionError(
          absl::StrCat("ticket ", ticket_.id, " (", ticket_.cluster, "): no transition ",
                       TicketStateName(ticket_.state), " -> ", TicketStateName(transition.to)));
    }
    RETURN_IF_ERROR(CheckTransitionEvidence(ticket_, transition.to, max_crashes_));
    // Probes made under other weights say nothing about the new ones.
    const bool weights_change = transition.to == S::kPromoted ||
                                (transition.to == S::kReverted && !ticket_.gate_outcomes.empty());
    if (weights_change) ticket_.first_current_probe = ticket_.probes.size();
    ticket_.state = transition.to;
    return absl::OkStatus();
  }

  absl::Status operator()(const ProbeRecord& record) const {
    if (record.case_id.empty()) return Malformed("probe record without a case id");
    if (record.pp_successes < 0 || record.pp_successes > record.pp_trials) {
      return Malformed(absl::StrCat("probe record of ", record.case_id, ": pp ",
                                    record.pp_successes, " of ", record.pp_trials));
    }
    ticket_.probes.push_back(record);
    return absl::OkStatus();
  }

  absl::Status operator()(const VerifiedExample& example) const {
    if (example.case_id.empty()) return Malformed("example without a case id");
    if (!IsSha256Hex(example.content_hash) || !IsSha256Hex(example.near_hash)) {
      return Malformed(absl::StrCat("example ", example.case_id, ": hashes are not SHA-256"));
    }
    if (example.tokens < 0) {
      return Malformed(absl::StrCat("example ", example.case_id, ": ", example.tokens, " tokens"));
    }
    const bool known = std::any_of(
        ticket_.examples.begin(), ticket_.examples.end(), [&](const VerifiedExample& e) {
          return e.content_hash == example.content_hash || e.near_hash == example.near_hash;
        });
    if (known) {
      ++ticket_.num_duplicates;
    } else {
      ticket_.examples.push_back(example);
    }
    return absl::OkStatus();
  }

  absl::Status operator()(const PatchAttempt& attempt) const {
    if (attempt.kind == PatchKind::kNone || attempt.tokens < 0) {
      return Malformed(absl::StrCat("patch attempt for ", attempt.case_id, ": kind ",
                                    PatchKindName(attempt.kind), ", ", attempt.tokens, " tokens"));
    }
    ticket_.patch_attempts.push_back(attempt);
    return absl::OkStatus();
  }

  absl::Status operator()(const TrainingAttempt& attempt) const {
    if (ticket_.state != S::kTraining) return OutsideState("a training attempt", S::kTraining);
    if (attempt.completed && attempt.adapter.empty()) {
      return Malformed("completed training without an adapter");
    }
    if (attempt.num_examples < 0) {
      return Malformed(absl::StrCat("training with ", attempt.num_examples, " examples"));
    }
    ticket_.training_attempts.push_back(attempt);
    return absl::OkStatus();
  }

  absl::Status operator()(const GateRecord& outcome) const {
    if (ticket_.state != S::kGated) return OutsideState("a gate outcome", S::kGated);
    if (outcome.adapter.empty()) return Malformed("gate outcome without an adapter");
    ticket_.gate_outcomes.push_back(outcome);
    return absl::OkStatus();
  }

 private:
  absl::Status Malformed(absl::string_view why) const {
    return absl::InvalidArgumentError(
        absl::StrCat("ticket ", ticket_.id, " (", ticket_.cluster, "): ", why));
  }
  absl::Status OutsideState(absl::string_view what, TicketState wanted) const {
    return absl::FailedPreconditionError(
        absl::StrCat("ticket ", ticket_.id, " (", ticket_.cluster, "): ", what, " belongs to ",
                     TicketStateName(wanted), ", the ticket is ", TicketStateName(ticket_.state)));
  }

  Ticket& ticket_;
  const int max_crashes_;
};

absl::Status CheckEnvelope(const Ledger& ledger, const TicketEvent& event) {
  if (event.cluster.empty()) {
    return absl::InvalidArgumentError(absl::StrCat("event ", event.seq, ": empty cluster"));
  }
  const bool has_evidence =
      !event.evidence.empty() && std::none_of(event.evidence.begin(), event.evidence.end(),
                                              [](const std::string& id) { return id.empty(); });
  if (!has_evidence) {
    return absl::InvalidArgumentError(
        absl::StrCat("event ", event.seq, " of ", event.cluster, ": names no evidence"));
  }
  if (event.seq != ledger.last_seq + 1) {
    return absl::FailedPreconditionError(
        absl::StrCat("event ", event.seq, " after event ", ledger.last_seq));
  }
  return absl::OkStatus();
}

bool Opens(const TicketEvent& event) {
  const auto* transition = std::get_if<Transition>(&event.payload);
  return transition != nullptr && transition->to == S::kOpen;
}

}  // namespace

bool CanTransition(TicketState from, TicketState to) {
  return std::find(kTransitions.begin(), kTransitions.end(), std::pair(from, to)) !=
         kTransitions.end();
}

std::string TicketId(absl::string_view cluster) {
  return absl::StrCat("t-", Sha256Hex(cluster).substr(0, 12));
}

absl::StatusOr<Ledger> ApplyEvent(Ledger ledger, const TicketEvent& event) {
  RETURN_IF_ERROR(CheckEnvelope(ledger, event));
  const auto found = ledger.tickets.find(event.cluster);
  if (Opens(event)) {
    if (found != ledger.tickets.end()) {
      return absl::FailedPreconditionError(
          absl::StrCat("event ", event.seq, ": ", event.cluster, " is open already"));
    }
    Ticket ticket;
    ticket.id = TicketId(event.cluster);
    ticket.cluster = event.cluster;
    ledger.tickets.emplace(event.cluster, std::move(ticket));
  } else {
    if (found == ledger.tickets.end()) {
      return absl::FailedPreconditionError(
          absl::StrCat("event ", event.seq, ": no ticket for cluster ", event.cluster));
    }
    RETURN_IF_ERROR(std::visit(Applier(found->second, ledger.max_training_crashes), event.payload));
  }
  ledger.last_seq = event.seq;
  return ledger;
}

absl::StatusOr<Ledger> ReplayEvents(Ledger empty, absl::Span<const TicketEvent> events) {
  Ledger ledger = std::move(empty);
  for (const TicketEvent& event : events) {
    ASSIGN_OR_RETURN(ledger, ApplyEvent(std::move(ledger), event));
  }
  return ledger;
}

absl::StatusOr<VerifiedExample> MakeExample(const Case& c, absl::string_view answer,
                                            ExampleSource source, int64_t tokens) {
  const std::string what = absl::StrCat("example of case ", c.id);
  if (c.is_private) return absl::InvalidArgumentError(absl::StrCat(what, ": private"));
  if (c.is_volatile) return absl::InvalidArgumentError(absl::StrCat(what, ": volatile"));
  if (answer.empty()) return absl::InvalidArgumentError(absl::StrCat(what, ": no right answer"));
  RETURN_IF_ERROR(CheckUntrustedText(what, LastUserText(c)));
  RETURN_IF_ERROR(CheckUntrustedText(what, answer));
  // Lengths in front keep the borders between the texts.
  std::string content;
  std::string normalised;
  for (const Message& message : c.messages) {
    absl::StrAppend(&content, message.role, " ", message.content.size(), ":", message.content);
    absl::StrAppend(&normalised, NormalizeText(message.content), "\n");
  }
  absl::StrAppend(&content, "answer ", answer.size(), ":", answer);
  absl::StrAppend(&normalised, NormalizeText(answer));
  VerifiedExample example;
  example.case_id = c.id;
  example.content_hash = Sha256Hex(content);
  example.near_hash = Sha256Hex(normalised);
  example.sub_intent =
      c.verify.type == VerifyType::kToolCall ? c.verify.tool_name : NormalizeText(answer);
  example.source = source;
  example.tokens = tokens;
  return example;
}

ProbeRecord RecordOf(const Diagnosis& diagnosis) {
  ProbeRecord record;
  record.case_id = diagnosis.case_id;
  record.failure_class = diagnosis.failure_class;
  record.inherited = diagnosis.inherited;
  record.gold_checked = diagnosis.gold_checked;
  record.gold_refused = diagnosis.failure_class == FailureClass::kVerifierWrong;
  for (const ProbeTarget target : {ProbeTarget::kOriginal, ProbeTarget::kSiblings}) {
    const MeasuredRate* pp = FindRate(diagnosis, ProbeKind::kForcedPatch, target);
    if (pp == nullptr) continue;
    record.pp_successes += pp->counts.successes;
    record.pp_trials += pp->counts.trials;
  }
  return record;
}

}  // namespace evolora
