#include <algorithm>
#include <set>

#include "evolora/evolver/ledger.h"

namespace evolora {
namespace {

ClusterEvidence CurrentEvidence(const Ticket& ticket) {
  ClusterEvidence evidence;
  for (size_t i = ticket.first_current_probe; i < ticket.probes.size(); ++i) {
    if (!ticket.probes[i].inherited) ++evidence.probed[ticket.probes[i].failure_class];
  }
  return evidence;
}

FailureClass MostFrequentClass(const Ticket& ticket) {
  std::map<FailureClass, int64_t> counts;
  for (size_t i = ticket.first_current_probe; i < ticket.probes.size(); ++i) {
    const FailureClass failure_class = ticket.probes[i].failure_class;
    if (IsInheritable(failure_class)) ++counts[failure_class];
  }
  const auto most =
      std::max_element(counts.begin(), counts.end(),
                       [](const auto& a, const auto& b) { return a.second < b.second; });
  return most == counts.end() ? FailureClass::kUndetermined : most->first;
}

void SumProbes(const Ticket& ticket, TicketSummary& summary) {
  std::set<std::string> cases;
  for (size_t i = 0; i < ticket.probes.size(); ++i) {
    const ProbeRecord& record = ticket.probes[i];
    cases.insert(record.case_id);
    summary.gold_checked += record.gold_checked ? 1 : 0;
    summary.gold_refused += record.gold_refused ? 1 : 0;
    if (i < ticket.first_current_probe) continue;
    summary.pp_successes += record.pp_successes;
    summary.pp_trials += record.pp_trials;
  }
  summary.num_failures = static_cast<int64_t>(cases.size());
}

void SumExamples(const Ticket& ticket, TicketSummary& summary) {
  std::set<std::string> sub_intents;
  int64_t counted = 0;
  double tokens = 0;
  for (const VerifiedExample& example : ticket.examples) {
    sub_intents.insert(example.sub_intent);
    if (example.tokens == 0) continue;
    ++counted;
    tokens += static_cast<double>(example.tokens);
  }
  summary.examples = ticket.examples;
  summary.num_duplicates = ticket.num_duplicates;
  summary.num_sub_intents = static_cast<int64_t>(sub_intents.size());
  summary.mean_example_tokens = counted == 0 ? 0 : tokens / static_cast<double>(counted);
}

void SumTrainings(const Ticket& ticket, TicketSummary& summary) {
  for (const TrainingAttempt& attempt : ticket.training_attempts) {
    if (attempt.completed) {
      summary.trained_examples = attempt.num_examples;
      summary.crashes_in_row = 0;
    } else {
      ++summary.crashes_in_row;
    }
  }
}

}  // namespace

LedgerSnapshot Snapshot(const Ledger& ledger, int64_t requests_seen) {
  LedgerSnapshot snapshot;
  snapshot.requests_seen = requests_seen;
  snapshot.max_training_crashes = ledger.max_training_crashes;
  for (const auto& [cluster, ticket] : ledger.tickets) {
    TicketSummary summary;
    summary.id = ticket.id;
    summary.cluster = cluster;
    summary.state = ticket.state;
    summary.failure_class = MostFrequentClass(ticket);
    summary.evidence = CurrentEvidence(ticket);
    SumProbes(ticket, summary);
    SumExamples(ticket, summary);
    SumTrainings(ticket, summary);
    summary.patch_attempts = ticket.patch_attempts;
    summary.gate_outcomes = ticket.gate_outcomes;
    snapshot.tickets.push_back(std::move(summary));
  }
  return snapshot;
}

const TicketSummary* FindTicket(const LedgerSnapshot& snapshot, absl::string_view cluster) {
  for (const TicketSummary& ticket : snapshot.tickets) {
    if (ticket.cluster == cluster) return &ticket;
  }
  return nullptr;
}

ClusterEvidence EvidenceOf(const Ledger& ledger, absl::string_view cluster) {
  const auto found = ledger.tickets.find(std::string(cluster));
  return found == ledger.tickets.end() ? ClusterEvidence{} : CurrentEvidence(found->second);
}

}  // namespace evolora
