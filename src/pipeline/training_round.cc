#include "training_round.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "evolora/core/random.h"
#include "evolora/core/sha256.h"
#include "evolora/core/status_macros.h"
#include "gate_round.h"

namespace evolora {
namespace {

// "Tool calls/EU" -> "tool-calls-eu": a slot name servers accept.
std::string SlotName(const std::string& cluster) {
  std::string slot;
  for (const char c : cluster) {
    if ((c >= 'a' && c <= 'z') || (c >= '0' && c <= '9')) {
      slot += c;
    } else if (c >= 'A' && c <= 'Z') {
      slot += static_cast<char>(c - 'A' + 'a');
    } else if (!slot.empty() && slot.back() != '-') {
      slot += '-';
    }
  }
  if (slot.size() > 40) slot.resize(40);
  return slot.empty() ? "adapter" : slot;
}

const Solved* FindFailed(const RunState& run, const std::string& cluster, const std::string& id) {
  const auto failed = run.failed.find(cluster);
  if (failed == run.failed.end()) return nullptr;
  for (const Solved& solved : failed->second) {
    if (solved.value.id == id) return &solved;
  }
  return nullptr;
}

// One training row: the request as the champion's text state composes it, and the answer.
absl::StatusOr<std::string> RowJson(RunState& run, const Case& c, const std::string& answer,
                                    bool replay) {
  ASSIGN_OR_RETURN(const Solver::Prepared prepared,
                   run.solver.Prepare(run.champion.view, Replay{.value = &c}));
  Json messages = Json::array();
  for (const Message& message : prepared.request.messages) {
    messages.push_back(Json{{"role", message.role}, {"content", message.content}});
  }
  messages.push_back(Json{{"role", "assistant"}, {"content", answer}});
  Json row{{"messages", std::move(messages)}};
  if (replay) row["replay"] = true;
  return CanonicalJson(row) + "\n";
}

Json RecipeOf(const RunState& run, const TrainingPlan& plan) {
  const uint64_t seed = DeriveSeed(run.options.seed, absl::StrCat("adapter/", plan.cluster));
  return Json{{"rank", plan.recipe.rank},
              {"alpha", plan.recipe.alpha},
              {"learning_rate", plan.recipe.learning_rate},
              {"epochs", plan.recipe.epochs},
              {"replay_share", plan.recipe.anchor_replay_share},
              {"seed", seed % (uint64_t{1} << 31)}};
}

absl::StatusOr<TrainingRequest> RequestFor(RunState& run, const TrainingPlan& plan) {
  TrainingRequest request;
  request.recipe = RecipeOf(run, plan);
  for (const std::string& id : plan.example_case_ids) {
    const Solved* solved = FindFailed(run, plan.cluster, id);
    if (solved == nullptr) return absl::InternalError(absl::StrCat("no failed case ", id));
    ASSIGN_OR_RETURN(const std::string row,
                     RowJson(run, solved->value, solved->value.feedback.answer, /*replay=*/false));
    request.data_jsonl += row;
  }
  if (plan.recipe.anchor_replay_share > 0) {
    for (const Solved& solved : run.passed) {
      ASSIGN_OR_RETURN(const std::string row,
                       RowJson(run, solved.value, solved.episode.output, /*replay=*/true));
      request.data_jsonl += row;
    }
  }
  for (const auto* split : {&run.stream.query(), &run.stream.anchor()}) {
    for (const Case& c : *split) {
      request.protected_jsonl += CanonicalJson(Json{{"text", LastUserText(c)}}) + "\n";
    }
  }
  request.job_digest =
      Sha256Hex(CanonicalJson(Json{{"base", run.options.base.weights_fingerprint},
                                   {"data", Sha256Hex(request.data_jsonl)},
                                   {"protected", Sha256Hex(request.protected_jsonl)},
                                   {"recipe", request.recipe}}))
          .substr(0, 16);
  return request;
}

// Champion's adapters with `slot` put in: in place of one with its name, else before unscoped ones.
std::vector<AdapterSlot> WithSlot(std::vector<AdapterSlot> adapters, const AdapterSlot& slot) {
  for (AdapterSlot& present : adapters) {
    if (present.slot != slot.slot) continue;
    present = slot;
    return adapters;
  }
  const auto unscoped = std::find_if(adapters.begin(), adapters.end(),
                                     [](const AdapterSlot& a) { return a.scope.all; });
  adapters.insert(slot.scope.all ? adapters.end() : unscoped, slot);
  return adapters;
}

GateResult AsResult(::evolora::GateOutcome outcome) {
  switch (outcome) {
    case GateOutcome::kPass:
      return GateResult::kAccept;
    case GateOutcome::kFail:
      return GateResult::kReject;
    case GateOutcome::kInconclusive:
      return GateResult::kInconclusive;
  }
  return GateResult::kInconclusive;
}

absl::Status JudgeAdapter(RunState& run, const TrainingPlan& plan, const TrainingRequest& request,
                          const LoraAdapter& adapter) {
  ASSIGN_OR_RETURN(
      const AdapterSlot slot,
      StoreAdapter(*run.tools.home, adapter, SlotName(plan.cluster), plan.scope.trigger));
  ASSIGN_OR_RETURN(const LoraAdapter stored, LoadStoredAdapter(*run.tools.home, slot));
  RETURN_IF_ERROR(run.tools.load_adapter(stored));
  const std::string& evidence = request.job_digest;
  RETURN_IF_ERROR(run.AddEvent(
      plan.cluster, {evidence},
      TrainingAttempt{.completed = true,
                      .num_examples = static_cast<int64_t>(plan.example_case_ids.size()),
                      .adapter = slot.digest}));
  RETURN_IF_ERROR(
      run.MoveTicket(plan.cluster, TicketState::kGated, evidence, "the adapter is trained"));

  Candidate candidate{.what = absl::StrCat("adapter ", plan.cluster),
                      .state = run.champion.state,
                      .adapters = WithSlot(run.champion.record.manifest.adapters, slot),
                      .decision = Json{{"action", "lora"}, {"plan", TrainingPlanToJson(plan)}},
                      .evidence = Json{{"job", request.job_digest}},
                      .clusters = {plan.cluster}};
  ASSIGN_OR_RETURN(const GateVerdict verdict, JudgeCandidate(run, candidate));
  ASSIGN_OR_RETURN(const VersionRecord record, CommitCandidate(run, candidate, verdict));
  RETURN_IF_ERROR(run.AddEvent(plan.cluster, {record.id},
                               GateRecord{.adapter = slot.digest,
                                          .result = AsResult(verdict.outcome),
                                          .gain = verdict.query.estimate,
                                          .loss = verdict.anchor.estimate}));
  if (verdict.outcome != GateOutcome::kPass) {
    return run.MoveTicket(plan.cluster, TicketState::kWaiting, record.id, verdict.reason);
  }
  RETURN_IF_ERROR(run.MoveTicket(plan.cluster, TicketState::kPromoted, record.id, verdict.reason));
  return run.MoveTicket(plan.cluster, TicketState::kWatched, record.id, "the adapter serves");
}

// Tried again by the next TrainWhen, until the ledger's limit of crashes in a row.
absl::Status AfterCrash(RunState& run, const std::string& cluster, const std::string& evidence) {
  const LedgerSnapshot snapshot = Snapshot(run.ledger, run.requests_seen);
  const TicketSummary* ticket = FindTicket(snapshot, cluster);
  if (ticket != nullptr && ticket->crashes_in_row < snapshot.max_training_crashes) {
    return run.MoveTicket(cluster, TicketState::kQueued, evidence, "the attempt crashed");
  }
  return run.MoveTicket(cluster, TicketState::kAbstained, evidence,
                        absl::StrCat(snapshot.max_training_crashes, " attempts in a row crashed"));
}

absl::Status TrainTicket(RunState& run, const TrainingPlan& plan) {
  ASSIGN_OR_RETURN(const TrainingRequest request, RequestFor(run, plan));
  const std::string& evidence = request.job_digest;
  RETURN_IF_ERROR(run.MoveTicket(plan.cluster, TicketState::kQueued, evidence, plan.reason));
  RETURN_IF_ERROR(run.MoveTicket(plan.cluster, TicketState::kTraining, evidence, plan.reason));
  if (run.observer.on_training) run.observer.on_training(plan);
  absl::StatusOr<TrainingOutcome> outcome = run.tools.train(request, run.stop);
  if (absl::IsCancelled(outcome.status())) return outcome.status();
  if (!outcome.ok()) {
    run.Note(absl::StrCat("training for ", plan.cluster, " failed: ", outcome.status().message()));
    RETURN_IF_ERROR(run.AddEvent(
        plan.cluster, {evidence},
        TrainingAttempt{.completed = false, .error = std::string(outcome.status().message())}));
    return AfterCrash(run, plan.cluster, evidence);
  }
  run.result.evolve += outcome->compute;
  return JudgeAdapter(run, plan, request, outcome->adapter);
}

// Whether every failure of the cluster lies outside the model.
bool IsPlumbing(const RunState& run, const std::string& cluster) {
  const auto ticket = run.ledger.tickets.find(cluster);
  if (ticket == run.ledger.tickets.end() || ticket->second.probes.empty()) return false;
  const std::vector<ProbeRecord>& probes = ticket->second.probes;
  return std::all_of(probes.begin(), probes.end(), [](const ProbeRecord& probe) {
    return probe.failure_class == FailureClass::kPlumbing;
  });
}

// What an adapter for `cluster` has to keep out of its scope. Calls of a broken tool look like the
// cluster's own and have nothing to lose.
std::vector<std::string> TextsToSpare(const RunState& run, const std::string& cluster) {
  std::vector<std::string> texts;
  for (const auto& [other, requests] : run.request_texts) {
    if (other == cluster || IsPlumbing(run, other)) continue;
    texts.insert(texts.end(), requests.begin(), requests.end());
  }
  return texts;
}

StreamOutlook OutlookOf(const RunState& run, int64_t stream_remaining) {
  StreamOutlook outlook{.stream_remaining = stream_remaining};
  for (const auto& [cluster, solved] : run.failed) {
    ScopeTexts& texts = outlook.texts[cluster];
    const auto inside = run.request_texts.find(cluster);
    if (inside != run.request_texts.end()) texts.inside = inside->second;
    texts.outside = TextsToSpare(run, cluster);
  }
  return outlook;
}

}  // namespace

absl::Status TrainDueTickets(RunState& run, int64_t stream_remaining) {
  // Every pass trains, fails or waits; the bound only guards against a ledger that never settles.
  const int64_t max_rounds = 4 * (1 + static_cast<int64_t>(run.ledger.tickets.size()));
  for (int64_t round = 0; round < max_rounds; ++round) {
    if (run.EvolveBudgetSpent()) return absl::OkStatus();
    const std::optional<TrainingPlan> plan =
        TrainWhen(Snapshot(run.ledger, run.requests_seen), run.options.decisions,
                  OutlookOf(run, stream_remaining));
    if (!plan.has_value()) return absl::OkStatus();
    RETURN_IF_ERROR(TrainTicket(run, *plan));
  }
  return absl::OkStatus();
}

}  // namespace evolora
