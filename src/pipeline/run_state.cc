#include "run_state.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "evolora/core/check.h"
#include "evolora/core/status_macros.h"

namespace evolora {

RunState::RunState(const RunTools& run_tools, const Stream& run_stream,
                   const RunOptions& run_options, const RunObserver& run_observer,
                   std::stop_token stop_run)
    : tools(run_tools),
      stream(run_stream),
      options(run_options),
      observer(run_observer),
      stop(std::move(stop_run)),
      run_id(RunId(run_options, run_stream)),
      memo(*run_tools.model, run_tools.home->evidence(), run_options.model_fingerprint,
           MemoOptions{.batch_size = run_options.model_batch}),
      solver(memo, run_options.solve) {
  result.run_id = run_id;
}

absl::Status RunState::GoOnBetween(absl::string_view place) const {
  if (!stop.stop_requested()) return absl::OkStatus();
  return absl::CancelledError(absl::StrCat("stopped between ", place));
}

absl::Status RunState::AddEvent(const std::string& cluster, std::vector<std::string> evidence,
                                TicketPayload payload) {
  const TicketEvent event{.seq = ledger.last_seq + 1,
                          .cluster = cluster,
                          .evidence = std::move(evidence),
                          .payload = std::move(payload)};
  ASSIGN_OR_RETURN(ledger, ApplyEvent(std::move(ledger), event));
  Keep(EvidenceKind::kTicketEvent, absl::StrFormat("%06d", event.seq), TicketEventToJson(event));
  return absl::OkStatus();
}

absl::Status RunState::MoveTicket(const std::string& cluster, TicketState to,
                                  const std::string& evidence, const std::string& why) {
  const auto ticket = ledger.tickets.find(cluster);
  if (ticket != ledger.tickets.end()) {
    if (ticket->second.state == to || !CanTransition(ticket->second.state, to)) {
      return absl::OkStatus();
    }
  }
  return AddEvent(cluster, {evidence}, Transition{.to = to, .why = why});
}

TicketState RunState::StateOf(const std::string& cluster) const {
  const auto ticket = ledger.tickets.find(cluster);
  EVOLORA_CHECK(ticket != ledger.tickets.end(), "every failed cluster has a ticket");
  return ticket->second.state;
}

void RunState::Keep(EvidenceKind kind, const std::string& key, Json value) {
  unflushed_.push_back({.kind = kind, .run_id = run_id, .key = key, .value = std::move(value)});
}

absl::Status RunState::Flush() {
  RETURN_IF_ERROR(tools.home->evidence().AppendAll(unflushed_));
  unflushed_.clear();
  return absl::OkStatus();
}

void RunState::Note(const std::string& text) const {
  if (observer.on_note) observer.on_note(text);
}

void RunState::Progress(const std::string& phase, int64_t done, int64_t total) const {
  if (observer.on_progress) observer.on_progress(phase, done, total);
}

std::vector<std::string> RunState::TextsOutside(const std::string& cluster) const {
  std::vector<std::string> outside;
  for (const auto& [other, texts] : request_texts) {
    if (other != cluster) outside.insert(outside.end(), texts.begin(), texts.end());
  }
  return outside;
}

int64_t RunState::EvolveTokens() const {
  const Compute& spent = result.evolve;
  return spent.prompt_tokens + spent.generated_tokens + spent.trained_tokens;
}

bool RunState::EvolveBudgetSpent() const {
  return options.evolve_token_budget > 0 && EvolveTokens() >= options.evolve_token_budget;
}

void RunState::AddDifference(Compute& entry, const Compute& before, const Compute& after) {
  entry.prompt_tokens += after.prompt_tokens - before.prompt_tokens;
  entry.generated_tokens += after.generated_tokens - before.generated_tokens;
  entry.trained_tokens += after.trained_tokens - before.trained_tokens;
  entry.flops += after.flops - before.flops;
  entry.seconds += after.seconds - before.seconds;
}

}  // namespace evolora
