#pragma once

#include <cstdint>
#include <functional>
#include <stop_token>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "evolora/adapters/gate.h"
#include "evolora/core/compute.h"
#include "evolora/core/language_model.h"
#include "evolora/data/stream.h"
#include "evolora/eval/solver.h"
#include "evolora/evolver/decide.h"
#include "evolora/evolver/policy.h"
#include "evolora/evolver/probe.h"
#include "evolora/evolver/train_when.h"
#include "evolora/pipeline/home.h"
#include "evolora/pipeline/version_store.h"

namespace evolora {

// What a training job of the loop asks for, and what comes back. The runner works in its own
// process and folder; it is resumed by asking again with the same request.
struct TrainingRequest {
  std::string job_digest;       // identity of the request: names its folder
  std::string data_jsonl;       // training rows (trainers/training_data.h)
  std::string protected_jsonl;  // {"text"} rows that must not be trained on
  Json recipe;                  // trainers/recipe.h
};
struct TrainingOutcome {
  LoraAdapter adapter;
  Compute compute;
};
// Errors: Cancelled when stopped; anything else is a crashed attempt: the ticket is tried again.
using TrainingRunner =
    std::function<absl::StatusOr<TrainingOutcome>(const TrainingRequest&, std::stop_token)>;

// The shift measures of a candidate with adapters: KL on the anchors whose request it changes, and
// the adapters' relative norm (adapters/gate.h, ShiftMeasures). May be empty in tests.
using ShiftMeter = std::function<absl::StatusOr<ShiftMeasures>(
    absl::Span<const AdapterSlot> adapters, absl::Span<const GenerateRequest> champion_requests,
    absl::Span<const GenerateRequest> candidate_requests)>;

struct RunOptions {
  BaseReference base;
  std::string model_fingerprint;    // memo identity: weights, regime, threads
  bool gate = true;                 // off: every candidate is committed unjudged (for research)
  uint64_t seed = 0;                // order of the stream, probes' samples, adapters' init
  int64_t window = 32;              // episodes between two rounds of judging
  int64_t evolve_token_budget = 0;  // > 0: no probe or training starts beyond it
  ProbePolicy probes;
  DecisionPolicy decisions;  // its seed is set from `seed`
  GatePolicy gate_policy;
  SolveOptions solve;
  int64_t gate_chunk = 16;   // pairs measured between two looks of the gate
  int64_t model_batch = 64;  // rows of one model call; results do not depend on it
};

// Progress of a run, for a live table. Called on the run's thread. All optional.
struct RunObserver {
  std::function<void(const std::string& phase, int64_t done, int64_t total)> on_progress;
  std::function<void(const Episode&)> on_episode;
  std::function<void(const Diagnosis&, const Decision&, int64_t evolve_tokens)> on_decision;
  std::function<void(const std::string& what, const GateVerdict&)> on_verdict;
  std::function<void(const TrainingPlan&)> on_training;
  std::function<void(const VersionRecord&)> on_commit;
  std::function<void(const std::string&)> on_note;
};

// What a finished run left. Everything in it is also in the evidence store.
struct RunResult {
  std::string run_id;
  std::string start_version;
  std::string final_version;
  int64_t episodes = 0;
  int64_t failures = 0;
  std::vector<std::string> versions;  // committed, in order
  Compute solve;                      // what an uninterrupted run spends, by ledger
  Compute evolve;
};

// The models and helpers a run works with; nothing is owned.
struct RunTools {
  Home* home = nullptr;
  LanguageModel* model = nullptr;  // un-memoised
  LoadAdapterFn load_adapter;
  TrainingRunner train;
  ShiftMeter measure_shift;
};

// Run id: 16 hex digits over base, stream, seed, router, gate, budget, window and policies. Equal
// options give the equal run, which goes on where it stopped.
std::string RunId(const RunOptions& options, const Stream& stream);

// The main job: solves the stream window by window with the current champion, probes, diagnoses and
// decides every failure, patches text or trains weights, has the gate judge each candidate and
// commits what passes. Deterministic: a run that was killed at any moment and is started again ends
// with the same version ids (completions are memoised in whole batches, training resumes from
// checkpoints, registration is idempotent). Never reads the sealed test split.
//
// Errors: FailedPrecondition `champion` was moved by somebody else while the run was down,
//         Cancelled `stop` was requested (all that was done is kept),
//         and whatever model, stores or files report.
absl::StatusOr<RunResult> RunLoop(const RunTools& tools, const Stream& stream,
                                  const RunOptions& options, const RunObserver& observer,
                                  std::stop_token stop);

}  // namespace evolora
