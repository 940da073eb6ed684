#include "gate_round.h"

#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "evolora/core/random.h"
#include "evolora/core/status_macros.h"
#include "evolora/eval/evaluate.h"

namespace evolora {
namespace {

std::vector<const Case*> Shuffled(absl::Span<const Case* const> cases, uint64_t seed) {
  std::vector<const Case*> out;
  for (const int64_t i : Random(seed).Permutation(static_cast<int64_t>(cases.size()))) {
    out.push_back(cases[static_cast<size_t>(i)]);
  }
  return out;
}

std::vector<const Case*> Pointers(absl::Span<const Case> cases) {
  std::vector<const Case*> out;
  for (const Case& c : cases) out.push_back(&c);
  return out;
}

// The anchors of one judgement: the stream's, and the champion's validation cases of other clusters
// (what was fixed before has to stay fixed; own cases took part in making the candidate).
std::vector<const Case*> AnchorCases(const RunState& run, const Candidate& candidate) {
  std::vector<const Case*> anchors = Pointers(run.stream.anchor());
  for (const auto& [id, validation] : run.champion.state.validation) {
    if (validation.reason != "failure") continue;
    if (candidate.clusters.count(validation.value.cluster) != 0) continue;
    anchors.push_back(&validation.value);
  }
  return anchors;
}

PairedOutcome AsPair(const PairedEpisodes& pair) {
  return {.case_id = pair.case_id,
          .cluster = pair.cluster,
          .champion_right = pair.champion.feedback.success,
          .candidate_right = pair.candidate.feedback.success,
          .identical_request = pair.identical_request};
}

// Asks the start version for all of query and anchor before the first judgement: the final report
// needs every one of these answers, the gates need most, and a model call over many rows costs
// little more than one over few. From then on the memo has them; they are booked where they are
// asked for.
absl::Status AnswerAhead(RunState& run) {
  std::vector<const Case*> cases = Pointers(run.stream.query());
  for (const Case& anchor : run.stream.anchor()) cases.push_back(&anchor);
  return run.solver.Solve(run.champion.view, absl::MakeConstSpan(cases)).status();
}

// Measures one split chunk by chunk while the gate wants more; keeps the pairs.
template <typename Wants, typename Observe>
absl::Status Measure(RunState& run, const StateView& candidate, std::vector<const Case*> cases,
                     const std::string& phase, Wants wants, Observe observe,
                     std::vector<PairedEpisodes>& seen) {
  const int64_t total = static_cast<int64_t>(cases.size());
  PairedEvaluation evaluation(run.solver, run.champion.view, candidate, std::move(cases),
                              run.options.gate_chunk);
  while (wants() && !evaluation.done()) {
    RETURN_IF_ERROR(run.GoOnBetween("two rounds of the gate"));
    ASSIGN_OR_RETURN(std::vector<PairedEpisodes> chunk, evaluation.Next());
    for (PairedEpisodes& pair : chunk) {
      RETURN_IF_ERROR(observe(AsPair(pair)));
      seen.push_back(std::move(pair));
    }
    run.Progress(phase, static_cast<int64_t>(seen.size()), total);
  }
  return absl::OkStatus();
}

double MeanAnswerTokens(absl::Span<const PairedEpisodes> pairs, bool of_candidate) {
  double sum = 0;
  for (const PairedEpisodes& pair : pairs) {
    sum += static_cast<double>(
        (of_candidate ? pair.candidate : pair.champion).compute.generated_tokens);
  }
  return pairs.empty() ? 0 : sum / static_cast<double>(pairs.size());
}

absl::StatusOr<ShiftMeasures> MeasureShift(RunState& run, const Candidate& candidate,
                                           const StateView& view,
                                           absl::Span<const PairedEpisodes> anchors) {
  ShiftMeasures shift;
  if (run.tools.measure_shift && candidate.adapters != run.champion.record.manifest.adapters) {
    std::map<std::string, const Case*> by_id;
    for (const Case* c : AnchorCases(run, candidate)) by_id[c->id] = c;
    std::vector<GenerateRequest> before, after;
    for (const PairedEpisodes& pair : anchors) {
      // A wrong answer is not protected: inside a scope it is meant to change.
      if (!pair.champion.feedback.success) continue;
      const Replay replay{.value = by_id[pair.case_id]};
      ASSIGN_OR_RETURN(Solver::Prepared champion, run.solver.Prepare(run.champion.view, replay));
      ASSIGN_OR_RETURN(Solver::Prepared changed, run.solver.Prepare(view, replay));
      before.push_back(std::move(champion.request));
      after.push_back(std::move(changed.request));
    }
    ASSIGN_OR_RETURN(shift, run.tools.measure_shift(candidate.adapters, before, after));
  }
  const double champion_length = MeanAnswerTokens(anchors, /*of_candidate=*/false);
  if (champion_length > 0) {
    shift.length_ratio = MeanAnswerTokens(anchors, /*of_candidate=*/true) / champion_length;
  }
  return shift;
}

GateVerdict Unjudged(const GatePolicy& policy) {
  GateVerdict verdict;
  verdict.outcome = GateOutcome::kPass;
  verdict.reason = "the gate is switched off: committed without judgement";
  verdict.policy = policy;
  return verdict;
}

// The candidate of some pending patches, applied to the champion in order; patches that no longer
// apply are left out and named.
absl::StatusOr<Candidate> FromPatches(RunState& run, absl::Span<const PendingPatch> patches) {
  Candidate candidate;
  candidate.state = run.champion.state;
  candidate.adapters = run.champion.record.manifest.adapters;
  Json items = Json::array();
  Json episodes = Json::array();
  for (const PendingPatch& pending : patches) {
    absl::StatusOr<ArtifactState> applied = Apply(candidate.state, pending.patch);
    if (!applied.ok()) {
      run.Note(absl::StrCat(pending.case_id, ": patch left out: ", applied.status().message()));
      continue;
    }
    candidate.state = *std::move(applied);
    candidate.clusters.insert(pending.cluster);
    items.push_back(Json{{"case", pending.case_id},
                         {"cluster", pending.cluster},
                         {"kind", PatchKindName(pending.kind)},
                         {"summary", pending.patch.summary},
                         {"reason", pending.reason}});
    episodes.push_back(pending.episode_id);
  }
  for (const Patch& validation : run.pending_validation) {
    absl::StatusOr<ArtifactState> applied = Apply(candidate.state, validation);
    if (applied.ok()) candidate.state = *std::move(applied);
  }
  candidate.what = absl::StrCat("patch ", absl::StrJoin(candidate.clusters, " "));
  candidate.decision = Json{{"action", "patch"}, {"items", std::move(items)}};
  candidate.evidence = Json{{"episodes", std::move(episodes)}};
  return candidate;
}

// Measured rates of one cluster on query, for the ledger.
struct ClusterRates {
  double before = 0;
  double after = 0;
};

ClusterRates RatesOf(const GateVerdict& verdict, const std::string& cluster) {
  const auto counts = verdict.query.clusters.find(cluster);
  if (counts == verdict.query.clusters.end() || counts->second.pairs == 0) return {};
  const double pairs = static_cast<double>(counts->second.pairs);
  return {static_cast<double>(counts->second.losses) / pairs,
          static_cast<double>(counts->second.wins) / pairs};
}

absl::Status RecordAttempts(RunState& run, absl::Span<const PendingPatch> patches,
                            const GateVerdict& verdict, const std::string& evidence) {
  const bool accepted = verdict.outcome == GateOutcome::kPass;
  for (const PendingPatch& pending : patches) {
    const ClusterRates rates = RatesOf(verdict, pending.cluster);
    RETURN_IF_ERROR(run.AddEvent(pending.cluster, {evidence},
                                 PatchAttempt{.case_id = pending.case_id,
                                              .kind = pending.kind,
                                              .tokens = pending.tokens,
                                              .rate_before = rates.before,
                                              .rate_after = rates.after,
                                              .accepted = accepted}));
    if (!accepted) continue;
    RETURN_IF_ERROR(
        run.MoveTicket(pending.cluster, TicketState::kPatched, evidence, verdict.reason));
  }
  return absl::OkStatus();
}

// Judges and settles some of the pending patches. Returns the outcome; inconclusive leaves no trace
// but its verdict.
absl::StatusOr<GateOutcome> Settle(RunState& run, absl::Span<const PendingPatch> patches) {
  ASSIGN_OR_RETURN(const Candidate candidate, FromPatches(run, patches));
  if (candidate.clusters.empty()) return GateOutcome::kFail;
  ASSIGN_OR_RETURN(const GateVerdict verdict, JudgeCandidate(run, candidate));
  if (verdict.outcome == GateOutcome::kInconclusive) return verdict.outcome;
  ASSIGN_OR_RETURN(const VersionRecord record, CommitCandidate(run, candidate, verdict));
  RETURN_IF_ERROR(RecordAttempts(run, patches, verdict, record.id));
  if (verdict.outcome == GateOutcome::kPass) run.pending_validation.clear();
  return verdict.outcome;
}

}  // namespace

absl::StatusOr<GateVerdict> JudgeCandidate(RunState& run, const Candidate& candidate) {
  const int64_t number = ++run.num_judged;
  if (!run.options.gate) {
    GateVerdict verdict = Unjudged(run.options.gate_policy);
    if (run.observer.on_verdict) run.observer.on_verdict(candidate.what, verdict);
    return verdict;
  }
  if (number == 1 && run.options.evolve_token_budget == 0) RETURN_IF_ERROR(AnswerAhead(run));
  ASSIGN_OR_RETURN(const StateView view, MakeView(absl::StrCat("candidate-", number),
                                                  candidate.state, candidate.adapters));
  ASSIGN_OR_RETURN(SequentialGate gate, SequentialGate::Create(run.options.gate_policy));
  const auto judge = [&]() -> absl::Status {
    std::vector<PairedEpisodes> query, anchor;
    const uint64_t seed = DeriveSeed(run.options.seed, absl::StrCat("gate/", number));
    RETURN_IF_ERROR(Measure(
        run, view, Shuffled(Pointers(run.stream.query()), DeriveSeed(seed, "query")), "gate: query",
        [&] { return gate.WantsQuery(); },
        [&](const PairedOutcome& pair) { return gate.ObserveQuery(pair); }, query));
    RETURN_IF_ERROR(Measure(
        run, view, Shuffled(AnchorCases(run, candidate), DeriveSeed(seed, "anchor")),
        "gate: anchor", [&] { return gate.WantsAnchor(); },
        [&](const PairedOutcome& pair) { return gate.ObserveAnchor(pair); }, anchor));
    ASSIGN_OR_RETURN(const ShiftMeasures shift, MeasureShift(run, candidate, view, anchor));
    return gate.ObserveShift(shift);
  };
  RETURN_IF_ERROR(run.Booked(run.result.evolve, judge));
  const GateVerdict verdict = gate.Current();
  Json row = GateVerdictToJson(verdict);
  run.Keep(EvidenceKind::kVerdict, absl::StrFormat("%03d", number),
           Json{{"candidate", candidate.what},
                {"champion", run.champion.record.id},
                {"verdict", std::move(row)}});
  RETURN_IF_ERROR(run.Flush());
  if (run.observer.on_verdict) run.observer.on_verdict(candidate.what, verdict);
  return verdict;
}

absl::StatusOr<VersionRecord> CommitCandidate(RunState& run, const Candidate& candidate,
                                              const GateVerdict& verdict) {
  Registry& registry = run.tools.home->registry();
  VersionManifest manifest{.base = run.options.base,
                           .adapters = candidate.adapters,
                           .parents = {run.champion.record.id},
                           .decision = candidate.decision};
  ASSIGN_OR_RETURN(manifest.artifacts, StoreState(registry.blobs(), candidate.state));
  ASSIGN_OR_RETURN(manifest.evidence, registry.blobs().PutJson(candidate.evidence));
  if (run.options.gate) {
    ASSIGN_OR_RETURN(manifest.verdict, registry.blobs().PutJson(GateVerdictToJson(verdict)));
  }
  ASSIGN_OR_RETURN(const VersionRecord record, registry.Register(manifest));
  if (verdict.outcome != GateOutcome::kPass) return record;

  const std::string key = absl::StrFormat("commit/%03d", ++run.num_commits);
  if (!run.tools.home->evidence().Get(EvidenceKind::kCheckpoint, run.run_id, key).ok()) {
    ASSIGN_OR_RETURN(const AliasRecord champion, registry.GetAlias("champion"));
    if (champion.version_id != run.champion.record.id && champion.version_id != record.id) {
      return absl::FailedPreconditionError(
          absl::StrCat("champion is ", champion.version_id, ", this run left it at ",
                       run.champion.record.id, ": it was moved by somebody else meanwhile"));
    }
    AliasMove move{.alias = "champion",
                   .version_id = record.id,
                   .expected_epoch = champion.epoch,
                   .reason = absl::StrCat("run ", run.run_id, ": ", candidate.what)};
    if (!run.options.gate) move.override_reason = "gate switched off";
    RETURN_IF_ERROR(registry.MoveAlias(move).status());
    run.Keep(EvidenceKind::kCheckpoint, key, Json{{"version", record.id}});
    RETURN_IF_ERROR(run.Flush());
  }
  ASSIGN_OR_RETURN(run.champion, OpenVersion(*run.tools.home, record.id, run.tools.load_adapter));
  run.result.versions.push_back(record.id);
  if (run.observer.on_commit) run.observer.on_commit(run.champion.record);
  return record;
}

absl::Status JudgePendingPatches(RunState& run) {
  if (run.pending.empty()) return absl::OkStatus();
  const std::vector<PendingPatch> patches = std::move(run.pending);
  run.pending.clear();
  ASSIGN_OR_RETURN(const GateOutcome outcome, Settle(run, patches));
  if (outcome == GateOutcome::kPass) return absl::OkStatus();
  if (outcome == GateOutcome::kInconclusive) {
    run.pending = patches;
    return absl::OkStatus();
  }
  std::map<std::string, std::vector<PendingPatch>> by_cluster;
  for (const PendingPatch& pending : patches) by_cluster[pending.cluster].push_back(pending);
  if (by_cluster.size() < 2) return absl::OkStatus();
  for (const auto& [cluster, some] : by_cluster) {
    ASSIGN_OR_RETURN(const GateOutcome alone, Settle(run, some));
    if (alone != GateOutcome::kInconclusive) continue;
    run.pending.insert(run.pending.end(), some.begin(), some.end());
  }
  return absl::OkStatus();
}

}  // namespace evolora
