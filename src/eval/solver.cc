#include "evolora/eval/solver.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "evolora/core/json.h"
#include "evolora/core/status_macros.h"
#include "evolora/eval/verify.h"

namespace evolora {

std::string RouteAdapter(const StateView& view, absl::Span<const Message> messages) {
  const std::string text = RequestText(messages);
  for (const AdapterRoute& route : view.routes) {
    if (Matches(route.scope, text)) return route.adapter;
  }
  return "";
}

Solver::Solver(LanguageModel& model, SolveOptions options)
    : model_(&model), options_(std::move(options)) {}

absl::StatusOr<Solver::Prepared> Solver::Prepare(const StateView& view,
                                                 const Replay& replay) const {
  if (view.index == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("version '", view.version_id, "' has no state index"));
  }
  const Case& value = *replay.value;
  ComposeOptions compose;
  compose.token_budget = options_.context_token_budget;
  compose.now_unix_ms = options_.now_unix_ms;
  compose.retrieval = options_.retrieval;
  compose.forced = replay.forced;
  compose.disabled = replay.disabled;
  compose.count_tokens = [this](absl::Span<const Message> messages) -> absl::StatusOr<int64_t> {
    ASSIGN_OR_RETURN(const std::vector<TokenId> ids, model_->EncodeChat(messages));
    return static_cast<int64_t>(ids.size());
  };
  absl::StatusOr<Composed> composed = Compose(*view.index, value.messages, compose);
  if (!composed.ok()) return Annotate(composed.status(), absl::StrCat("case ", value.id));

  Prepared out;
  out.used = std::move(composed->used);
  out.tokens_added = composed->tokens_added;
  out.request.messages = std::move(composed->messages);
  out.request.adapter = replay.forced_adapter.has_value() ? *replay.forced_adapter
                                                          : RouteAdapter(view, value.messages);
  const auto limit = options_.max_new_tokens.find(value.verify.type);
  if (limit != options_.max_new_tokens.end()) out.request.max_new_tokens = limit->second;
  out.request.sampling = replay.sampling.value_or(options_.sampling);
  out.request.stop = options_.stop;
  return out;
}

Episode Solver::MakeEpisode(const StateView& view, const Case& value, const Prepared& prepared,
                            const Completion& completion) const {
  Episode episode;
  episode.case_id = value.id;
  episode.cluster = value.cluster;
  episode.version_id = view.version_id;
  episode.adapter = prepared.request.adapter;
  episode.used = prepared.used;
  episode.output = ReplaceInvalidUtf8(completion.text);
  episode.finish_reason = completion.finish_reason;
  episode.feedback = Verify(value.verify, episode.output);
  episode.compute.prompt_tokens = completion.num_prompt_tokens;
  episode.compute.generated_tokens = static_cast<int64_t>(completion.ids.size());
  if (options_.count_flops) {
    episode.compute.flops =
        options_.count_flops(episode.compute.prompt_tokens, episode.compute.generated_tokens);
  }
  AssignEpisodeId(episode);
  return episode;
}

absl::StatusOr<std::vector<Episode>> Solver::SolveReplays(const StateView& view,
                                                          absl::Span<const Replay> replays) {
  if (options_.batch_size < 1) {
    return absl::InvalidArgumentError(absl::StrCat("batch size ", options_.batch_size));
  }
  std::vector<Episode> episodes;
  while (episodes.size() < replays.size()) {
    const absl::Span<const Replay> batch =
        replays.subspan(episodes.size(), static_cast<size_t>(options_.batch_size));
    std::vector<Prepared> prepared;
    std::vector<GenerateRequest> requests;
    for (const Replay& replay : batch) {
      ASSIGN_OR_RETURN(Prepared one, Prepare(view, replay));
      requests.push_back(one.request);
      prepared.push_back(std::move(one));
    }
    ASSIGN_OR_RETURN(const std::vector<Completion> completions, model_->Generate(requests));
    if (completions.size() != batch.size()) {
      return absl::InternalError(absl::StrCat("the model answered ", completions.size(), " of ",
                                              batch.size(), " requests"));
    }
    for (size_t i = 0; i < batch.size(); ++i) {
      episodes.push_back(MakeEpisode(view, *batch[i].value, prepared[i], completions[i]));
    }
  }
  return episodes;
}

absl::StatusOr<std::vector<Episode>> Solver::Solve(const StateView& view,
                                                   absl::Span<const Case* const> cases) {
  std::vector<Replay> replays(cases.size());
  for (size_t i = 0; i < cases.size(); ++i) replays[i].value = cases[i];
  return SolveReplays(view, replays);
}

absl::StatusOr<std::vector<Episode>> Solver::Solve(const StateView& view,
                                                   absl::Span<const Case> cases) {
  std::vector<const Case*> pointers;
  for (const Case& value : cases) pointers.push_back(&value);
  return Solve(view, absl::Span<const Case* const>(pointers));
}

}  // namespace evolora
