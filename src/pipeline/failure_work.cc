#include "failure_work.h"

#include <algorithm>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "evolora/core/random.h"
#include "evolora/core/status_macros.h"
#include "evolora/eval/verify.h"

namespace evolora {
namespace {

constexpr size_t kMaxSiblings = 8;

std::string OracleHint(const Case& c) {
  if (!c.feedback.hint.empty()) return c.feedback.hint;
  return c.feedback.rule.empty() ? c.feedback.answer : c.feedback.rule;
}

}  // namespace

FailureWork::FailureWork(RunState& run, const Solved& failed,
                         absl::Span<const Solved> window_failures)
    : run_(run), case_(failed.value) {
  failure_.value = failed.value;
  failure_.episode = failed.episode;
  FindSiblings(window_failures);
}

absl::Status FailureWork::Handle() {
  ASSIGN_OR_RETURN(const ProbeTable table, Probe());
  const Diagnosis diagnosis =
      Diagnose(failure_, table, EvidenceOf(run_.ledger, case_.cluster), run_.options.probes);
  RETURN_IF_ERROR(RecordDiagnosis(diagnosis));
  const Decision decision =
      Decide(diagnosis, Snapshot(run_.ledger, run_.requests_seen), run_.options.decisions);
  run_.Keep(EvidenceKind::kDecision, failure_.episode.id, DecisionToJson(decision));
  if (run_.observer.on_decision) run_.observer.on_decision(diagnosis, decision, tokens_spent_);
  return Apply(diagnosis, decision);
}

void FailureWork::FindSiblings(absl::Span<const Solved> window_failures) {
  if (!IsProcedure(case_)) return;
  for (const Solved& other : run_.failed[case_.cluster]) AddSibling(other.value);
  for (const Solved& other : window_failures) AddSibling(other.value);
}

void FailureWork::AddSibling(const Case& other) {
  if (other.cluster != case_.cluster || other.id == case_.id) return;
  for (const Case& known : siblings_) {
    if (known.id == other.id) return;
  }
  if (siblings_.size() < kMaxSiblings) siblings_.push_back(other);
}

// Whether the failed episode already had one of the items in its context.
bool FailureWork::UsedByEpisode(const ForcedItems& items) const {
  const std::vector<std::string>& used = failure_.episode.used;
  const std::vector<std::string> ids = ItemIds(items);
  return std::any_of(ids.begin(), ids.end(), [&](const std::string& id) {
    return std::find(used.begin(), used.end(), id) != used.end();
  });
}

// Kinds of patches of which the gate refused one for this cluster and accepted none.
std::set<PatchKind> FailureWork::RefusedKinds() const {
  std::set<PatchKind> refused, accepted;
  const auto ticket = run_.ledger.tickets.find(case_.cluster);
  if (ticket == run_.ledger.tickets.end()) return refused;
  for (const PatchAttempt& attempt : ticket->second.patch_attempts) {
    (attempt.accepted ? accepted : refused).insert(attempt.kind);
  }
  for (const PatchKind kind : accepted) refused.erase(kind);
  return refused;
}

absl::Status FailureWork::Propose() {
  RETURN_IF_ERROR(ProposeAndPrepare());
  if (!TeachesProcedure(failure_)) siblings_ = SurfaceVariantCases(case_);
  failure_.num_siblings = static_cast<int>(siblings_.size());
  return absl::OkStatus();
}

absl::Status FailureWork::ProposeAndPrepare() {
  std::vector<Case> passing;
  for (const Solved& solved : run_.passed) passing.push_back(solved.value);
  failure_.contradicts = FindContradiction(case_, passing);
  std::vector<KnowledgeEntry> existing;
  for (const auto& [key, entry] : run_.champion.state.knowledge) existing.push_back(entry);
  ProposeOptions options;
  options.refused = RefusedKinds();
  absl::StatusOr<Proposal> proposal =
      ProposeCandidate(failure_, siblings_, run_.TextsOutside(case_.cluster), existing, options);
  if (!proposal.ok()) {
    run_.Note(absl::StrCat(case_.id, ": no candidate patch: ", proposal.status().message()));
    return absl::OkStatus();
  }
  absl::StatusOr<ForcedItems> forced = ForcedFromPatch(run_.champion.state, proposal->patch);
  absl::StatusOr<ArtifactState> patched = evolora::Apply(run_.champion.state, proposal->patch);
  if (!forced.ok() || !patched.ok()) {
    run_.Note(absl::StrCat(case_.id, ": candidate patch does not apply: ",
                           (forced.ok() ? patched.status() : forced.status()).message()));
    return absl::OkStatus();
  }
  proposal_ = *std::move(proposal);
  forced_ = *std::move(forced);
  failure_.candidate = proposal_.kind;
  failure_.patch_in_state =
      StateHolds(run_.champion.state, proposal_.patch) && !UsedByEpisode(forced_);
  ASSIGN_OR_RETURN(patched_view_, MakeView(run_.champion.view.version_id, *patched,
                                           run_.champion.record.manifest.adapters));
  ASSIGN_OR_RETURN(
      const Solver::Prepared prepared,
      run_.solver.Prepare(run_.champion.view, Replay{.value = &case_, .forced = forced_}));
  failure_.patch_tokens = prepared.tokens_added;
  return absl::OkStatus();
}

std::optional<ProbeStep> FailureWork::NextStep(const ProbeTable& table) const {
  const ProbePolicy& policy = run_.options.probes;
  return NextProbe(table, ContextOf(failure_, EvidenceOf(run_.ledger, case_.cluster), policy),
                   policy);
}

absl::StatusOr<std::vector<GenerateRequest>> FailureWork::RequestsAhead() {
  std::vector<GenerateRequest> requests;
  while ((step_ahead_ = NextStep(ahead_)) && step_ahead_->kind == ProbeKind::kGold) {
    RETURN_IF_ERROR(TakeAhead());
  }
  if (!step_ahead_.has_value()) return requests;
  for (const Replay& replay : ReplaysOf(*step_ahead_)) {
    ASSIGN_OR_RETURN(Solver::Prepared prepared, run_.solver.Prepare(ViewOf(*step_ahead_), replay));
    requests.push_back(std::move(prepared.request));
  }
  return requests;
}

absl::Status FailureWork::TakeAhead() {
  ASSIGN_OR_RETURN(const ProbeCounts counts, RunStep(*step_ahead_));
  ahead_.Add(step_ahead_->kind, step_ahead_->target, counts);
  return absl::OkStatus();
}

absl::StatusOr<ProbeTable> FailureWork::Probe() {
  const int64_t tokens_before = run_.EvolveTokens();
  ProbeTable table;
  int64_t number = 0;
  while (auto step = NextStep(table)) {
    if (step->kind != ProbeKind::kGold && run_.EvolveBudgetSpent()) {
      run_.Note(absl::StrCat(case_.id, ": evolve budget spent, probing stops"));
      break;
    }
    ASSIGN_OR_RETURN(const ProbeCounts counts,
                     run_.Booked(run_.result.evolve, [&] { return RunStep(*step); }));
    table.Add(step->kind, step->target, counts);
    run_.Keep(EvidenceKind::kProbe, absl::StrFormat("%s/%02d", failure_.episode.id, ++number),
              Json{{"episode", failure_.episode.id},
                   {"case", case_.id},
                   {"kind", ProbeKindName(step->kind)},
                   {"target", ProbeTargetName(step->target)},
                   {"trials", counts.trials},
                   {"successes", counts.successes},
                   {"tool_errors", counts.tool_errors}});
  }
  tokens_spent_ = run_.EvolveTokens() - tokens_before;
  return table;
}

absl::StatusOr<ProbeCounts> FailureWork::RunStep(const ProbeStep& step) {
  if (step.kind == ProbeKind::kGold) {
    const Feedback gold = Verify(case_.verify, case_.feedback.answer);
    return ProbeCounts{
        .successes = gold.success, .trials = 1, .tool_errors = !gold.success && gold.tool_error};
  }
  ASSIGN_OR_RETURN(const std::vector<Episode> episodes,
                   run_.solver.SolveReplays(ViewOf(step), ReplaysOf(step)));
  ProbeCounts counts{.trials = static_cast<int64_t>(episodes.size())};
  for (const Episode& episode : episodes) {
    counts.successes += episode.feedback.success;
    counts.tool_errors += !episode.feedback.success && episode.feedback.tool_error;
  }
  return counts;
}

std::vector<Replay> FailureWork::ReplaysOf(const ProbeStep& step) const {
  std::vector<Replay> replays;
  for (int64_t i = 0; i < step.trials; ++i) replays.push_back(MakeReplay(step, i));
  return replays;
}

const StateView& FailureWork::ViewOf(const ProbeStep& step) const {
  return step.kind == ProbeKind::kRetrievedPatch ? patched_view_ : run_.champion.view;
}

Replay FailureWork::MakeReplay(const ProbeStep& step, int64_t trial) const {
  const int64_t index = step.first_seed + trial;
  const bool on_sibling = step.target == ProbeTarget::kSiblings && !siblings_.empty();
  const Case& value = on_sibling ? siblings_[static_cast<size_t>(index) % siblings_.size()] : case_;
  Replay replay{.value = &value};
  if (step.kind == ProbeKind::kForcedPatch) replay.forced = forced_;
  if (step.kind == ProbeKind::kOracle) replay.forced.hint = OracleHint(value);
  if (step.decoding == Decoding::kSampled) {
    replay.sampling = Sampling{
        .temperature = step.temperature,
        .seed = DeriveSeed(run_.options.seed, absl::StrCat("probe/", value.id, "/", index))};
  }
  return replay;
}

absl::Status FailureWork::RecordDiagnosis(const Diagnosis& diagnosis) {
  const std::string& id = failure_.episode.id;
  run_.Keep(EvidenceKind::kDiagnosis, id, DiagnosisToJson(diagnosis));
  if (run_.ledger.tickets.count(case_.cluster) == 0) {
    RETURN_IF_ERROR(run_.AddEvent(case_.cluster, {id},
                                  Transition{.to = TicketState::kOpen, .why = "first failure"}));
  }
  RETURN_IF_ERROR(run_.AddEvent(case_.cluster, {id}, RecordOf(diagnosis)));
  if (evolora::LeverOf(diagnosis.failure_class) == Lever::kNone) return absl::OkStatus();
  const TicketState state = run_.StateOf(case_.cluster);
  if (state != TicketState::kOpen && state != TicketState::kAbstained) return absl::OkStatus();
  return run_.MoveTicket(case_.cluster, TicketState::kReproduced, id, diagnosis.reason);
}

absl::Status FailureWork::Apply(const Diagnosis& diagnosis, const Decision& decision) {
  if (decision.add_validation_case) {
    run_.pending_validation.push_back(ProposeValidationCase(case_, decision.validation_reason));
  }
  if (decision.record_example) RETURN_IF_ERROR(RecordExample());
  switch (decision.action) {
    case Action::kFeedLora:
    case Action::kScheduleLora:
      return run_.MoveTicket(case_.cluster, TicketState::kWaiting, failure_.episode.id,
                             decision.reason);
    case Action::kPatchKnowledge:
    case Action::kPatchSkill:
    case Action::kPatchPrompt:
    case Action::kPatchTool:
    case Action::kPatchTrigger:
      return AddPending(diagnosis, decision);
    case Action::kAbstain:
    case Action::kValidationCase:
      if (run_.StateOf(case_.cluster) != TicketState::kOpen) return absl::OkStatus();
      return run_.MoveTicket(case_.cluster, TicketState::kAbstained, failure_.episode.id,
                             decision.reason);
    case Action::kConsolidate:
    case Action::kRevert:
      break;  // of tickets (ReviewTicket), never of one failure
  }
  return absl::OkStatus();
}

absl::Status FailureWork::RecordExample() {
  std::vector<Message> chat = case_.messages;
  chat.push_back({"assistant", case_.feedback.answer});
  ASSIGN_OR_RETURN(const std::vector<TokenId> ids, run_.memo.EncodeChat(chat));
  absl::StatusOr<VerifiedExample> example =
      MakeExample(case_, case_.feedback.answer, ExampleSource::kTeacherAnswer,
                  static_cast<int64_t>(ids.size()));
  if (!example.ok()) {
    run_.Note(absl::StrCat(case_.id, ": no training example: ", example.status().message()));
    return absl::OkStatus();
  }
  return run_.AddEvent(case_.cluster, {failure_.episode.id}, *std::move(example));
}

absl::Status FailureWork::AddPending(const Diagnosis& diagnosis, const Decision& decision) {
  absl::StatusOr<Proposal> proposal = PatchFor(diagnosis, decision);
  if (!proposal.ok()) {
    run_.Note(absl::StrCat(case_.id, ": ", ActionName(decision.action),
                           " not possible: ", proposal.status().message()));
    return absl::OkStatus();
  }
  run_.pending.push_back({.cluster = case_.cluster,
                          .case_id = case_.id,
                          .episode_id = failure_.episode.id,
                          .kind = proposal->kind,
                          .tokens = failure_.patch_tokens,
                          .patch = std::move(proposal->patch),
                          .reason = decision.reason});
  return absl::OkStatus();
}

absl::StatusOr<Proposal> FailureWork::PatchFor(const Diagnosis& diagnosis,
                                               const Decision& decision) {
  const ProposeOptions options;
  if (decision.action == Action::kPatchTool) {
    // What the runtime says of the right call, not of whatever the model wrote.
    Failure on_gold = failure_;
    on_gold.episode.feedback = Verify(case_.verify, case_.feedback.answer);
    return ProposeToolNote(on_gold, options);
  }
  if (decision.action == Action::kPatchPrompt) return ProposePromptLine(failure_, options);
  if (decision.action == Action::kPatchTrigger) return TriggerPatch(options);
  if (diagnosis.failure_class == FailureClass::kOverSpecificPatch && diagnosis.is_procedure) {
    return ProposeNarrowSkill(failure_, siblings_, run_.TextsOutside(case_.cluster), options);
  }
  return proposal_;
}

// Makes the retriever or the trigger find what the forced patch proved to help.
absl::StatusOr<Proposal> FailureWork::TriggerPatch(const ProposeOptions& options) {
  for (const PatchOp& op : proposal_.patch.ops) {
    if (const auto* put = std::get_if<PutKnowledge>(&op)) {
      ASSIGN_OR_RETURN(Proposal alias, ProposeKnowledgeAlias(put->entry, failure_, options));
      alias.patch.ops.insert(alias.patch.ops.begin(), op);
      return alias;
    }
    const auto* put = std::get_if<PutSkill>(&op);
    if (put == nullptr) continue;
    std::vector<std::string> inside;
    for (const Case& sibling : siblings_) inside.push_back(RequestText(sibling.messages));
    return ProposeTriggerFix(put->skill, inside, {RequestText(case_.messages)},
                             run_.TextsOutside(case_.cluster), options);
  }
  return absl::NotFoundError("the candidate has no entry or skill to be found");
}

}  // namespace evolora
