#pragma once

#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "run_state.h"

namespace evolora {

// A state beside the champion, not served yet.
struct Candidate {
  std::string what;  // "patch facts persona" or "adapter tools", for people
  ArtifactState state;
  std::vector<AdapterSlot> adapters;
  Json decision;                   // what was done and why, for the manifest
  Json evidence;                   // ids of episodes and jobs it was made from
  std::set<std::string> clusters;  // whose failures made it
};

// Judges all pending text patches together; when together they fail, cluster by cluster. What
// passes is committed, what fails is dropped, what is inconclusive stays pending for the next
// window.
absl::Status JudgePendingPatches(RunState& run);

// The gate: candidate against champion on query and anchor, paired, in a seeded order, until
// decided. With the gate switched off: a pass that says so, nothing measured. Cancelled: a stop was
// requested; no verdict is kept.
absl::StatusOr<GateVerdict> JudgeCandidate(RunState& run, const Candidate& candidate);

// Registers the candidate with its verdict; when it passed, makes it champion. Idempotent.
absl::StatusOr<VersionRecord> CommitCandidate(RunState& run, const Candidate& candidate,
                                              const GateVerdict& verdict);

}  // namespace evolora
