#pragma once

#include <cstdint>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "evolora/evolver/decide.h"
#include "evolora/evolver/diagnose.h"
#include "evolora/evolver/probe.h"
#include "run_state.h"

namespace evolora {

// One failure on its way from episode to decision, in this order: Propose, then any number of
// rounds of RequestsAhead and TakeAhead, then Handle. `run`, `failed` and `window_failures` outlive
// it.
class FailureWork {
 public:
  FailureWork(RunState& run, const Solved& failed, absl::Span<const Solved> window_failures);

  const std::string& case_id() const { return case_.id; }
  const std::string& cluster() const { return case_.cluster; }

  // The candidate patch, and what it looks like in a request. A failure without one is no error.
  absl::Status Propose();

  // Probing ahead, with what the ledger knows now: the requests of the next probe that Handle would
  // run, to be answered together with those of other failures; empty when no probe is left.
  // TakeAhead counts their outcome, from the memo. Neither keeps or books anything.
  absl::StatusOr<std::vector<GenerateRequest>> RequestsAhead();
  absl::Status TakeAhead();

  // Probes until the signature is clear, diagnoses, decides, and puts the decision into the ledger,
  // the pending patches or both.
  absl::Status Handle();

 private:
  void FindSiblings(absl::Span<const Solved> window_failures);
  void AddSibling(const Case& other);
  bool UsedByEpisode(const ForcedItems& items) const;
  std::set<PatchKind> RefusedKinds() const;
  absl::Status ProposeAndPrepare();

  std::optional<ProbeStep> NextStep(const ProbeTable& table) const;
  absl::StatusOr<ProbeTable> Probe();
  absl::StatusOr<ProbeCounts> RunStep(const ProbeStep& step);
  std::vector<Replay> ReplaysOf(const ProbeStep& step) const;
  Replay MakeReplay(const ProbeStep& step, int64_t trial) const;
  const StateView& ViewOf(const ProbeStep& step) const;

  absl::Status RecordDiagnosis(const Diagnosis& diagnosis);
  absl::Status Apply(const Diagnosis& diagnosis, const Decision& decision);
  absl::Status RecordExample();
  absl::Status AddPending(const Diagnosis& diagnosis, const Decision& decision);
  absl::StatusOr<Proposal> PatchFor(const Diagnosis& diagnosis, const Decision& decision);
  absl::StatusOr<Proposal> TriggerPatch(const ProposeOptions& options);

  RunState& run_;
  const Case& case_;
  Failure failure_;
  std::vector<Case> siblings_;
  Proposal proposal_;
  ForcedItems forced_;
  StateView patched_view_;
  ProbeTable ahead_;
  std::optional<ProbeStep> step_ahead_;
  int64_t tokens_spent_ = 0;
};

}  // namespace evolora
