#pragma once

#include <map>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "evolora/eval/memo_model.h"
#include "evolora/eval/solver.h"
#include "evolora/evolver/ledger.h"
#include "evolora/evolver/propose.h"
#include "evolora/pipeline/run.h"

namespace evolora {

// A stream case with the episode in which it passed or failed.
struct Solved {
  Case value;
  Episode episode;
};

// A text patch that waits for the gate.
struct PendingPatch {
  std::string cluster;
  std::string case_id;
  std::string episode_id;
  PatchKind kind = PatchKind::kNone;
  int64_t tokens = 0;
  Patch patch;
  std::string reason;  // of the decision
};

// What one run knows while it goes: the joint memory of the rounds. Rebuilt from scratch, and to
// the same values, when a run is started again; nothing here is read back from disk.
class RunState {
 public:
  RunState(const RunTools& tools, const Stream& stream, const RunOptions& options,
           const RunObserver& observer, std::stop_token stop);

  const RunTools& tools;
  const Stream& stream;
  const RunOptions& options;
  const RunObserver& observer;
  const std::stop_token stop;
  const std::string run_id;
  MemoModel memo;
  Solver solver;

  OpenedVersion champion;
  int64_t num_commits = 0;
  int64_t num_judged = 0;

  Ledger ledger;
  int64_t requests_seen = 0;
  std::map<std::string, std::vector<Solved>> failed;  // by cluster, in order
  std::vector<Solved> passed;
  std::map<std::string, std::vector<std::string>> request_texts;  // by cluster
  std::vector<PendingPatch> pending;
  std::vector<Patch> pending_validation;  // ride along with the next committed candidate

  RunResult result;

  // Appends and applies one ledger event.
  absl::Status AddEvent(const std::string& cluster, std::vector<std::string> evidence,
                        TicketPayload payload);
  // A transition, if the ticket is not there already.
  absl::Status MoveTicket(const std::string& cluster, TicketState to, const std::string& evidence,
                          const std::string& why);
  TicketState StateOf(const std::string& cluster) const;  // REQUIRES: the ticket exists

  // Keeps one piece of evidence of this run: with the next Flush, since each transaction costs a
  // disk flush. What a crash loses in between, the run started again makes again.
  void Keep(EvidenceKind kind, const std::string& key, Json value);
  absl::Status Flush();
  void Note(const std::string& text) const;
  // Cancelled when a stop was requested, with the place: "two probes". Whatever was answered until
  // then is kept, so that the run started again goes on from there.
  absl::Status GoOnBetween(absl::string_view place) const;
  void Progress(const std::string& phase, int64_t done, int64_t total) const;

  // Request texts of every cluster but `cluster`.
  std::vector<std::string> TextsOutside(const std::string& cluster) const;
  // Tokens spent on evolving so far, as the budget counts them.
  int64_t EvolveTokens() const;
  bool EvolveBudgetSpent() const;

  // Books what `body` makes the model spend on the solve or evolve ledger.
  template <typename Body>
  auto Booked(Compute& ledger_entry, Body&& body) {
    const Compute before = memo.charged();
    auto outcome = body();
    AddDifference(ledger_entry, before, memo.charged());
    return outcome;
  }

 private:
  std::vector<Evidence> unflushed_;

  static void AddDifference(Compute& entry, const Compute& before, const Compute& after);
};

}  // namespace evolora
