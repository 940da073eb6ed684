#pragma once

#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "evolora/core/sha256.h"
#include "evolora/evolver/ledger.h"
#include "gtest/gtest.h"

namespace evolora::testing {

// Builds a ledger event by event; every event must be accepted unless Try is used.
class LedgerBook {
 public:
  absl::Status Try(const std::string& cluster, TicketPayload payload,
                   std::vector<std::string> evidence = {"evidence"}) {
    TicketEvent event{.seq = ledger_.last_seq + 1,
                      .cluster = cluster,
                      .evidence = std::move(evidence),
                      .payload = std::move(payload)};
    absl::StatusOr<Ledger> next = ApplyEvent(ledger_, event);
    if (!next.ok()) return next.status();
    ledger_ = *std::move(next);
    events_.push_back(std::move(event));
    return absl::OkStatus();
  }
  void Do(const std::string& cluster, TicketPayload payload) {
    const absl::Status status = Try(cluster, std::move(payload));
    ASSERT_TRUE(status.ok()) << status;
  }
  void Go(const std::string& cluster, std::vector<TicketState> states) {
    for (const TicketState state : states) Do(cluster, Transition{.to = state, .why = "test"});
  }
  const Ledger& ledger() const { return ledger_; }
  const std::vector<TicketEvent>& events() const { return events_; }
  const Ticket& ticket(const std::string& cluster) const { return ledger_.tickets.at(cluster); }

 private:
  Ledger ledger_;
  std::vector<TicketEvent> events_;
};

inline VerifiedExample ExampleOf(int i, int num_intents = 4) {
  VerifiedExample e;
  e.case_id = absl::StrCat("case-", i);
  e.content_hash = Sha256Hex(absl::StrCat("content ", i));
  e.near_hash = Sha256Hex(absl::StrCat("near ", i));
  e.sub_intent = absl::StrCat("tool-", i % num_intents);
  e.tokens = 200;
  return e;
}

inline ProbeRecord ProbeOf(int i, FailureClass failure_class, bool inherited = false) {
  ProbeRecord p;
  p.case_id = absl::StrCat("case-", i);
  p.failure_class = failure_class;
  p.inherited = inherited;
  p.gold_checked = true;
  p.pp_trials = inherited ? 0 : 1;
  return p;
}

// A waiting ticket with `n` failures and examples of an absent capability.
inline void FillWaiting(LedgerBook& book, const std::string& cluster, int n) {
  book.Go(cluster, {TicketState::kOpen});
  for (int i = 0; i < n; ++i) {
    book.Do(cluster, ProbeOf(i, FailureClass::kAbsentCapability, i >= 5));
    book.Do(cluster, ExampleOf(i));
  }
  book.Go(cluster, {TicketState::kReproduced, TicketState::kWaiting});
}

}  // namespace evolora::testing
