// The life of a run, top to bottom. Each stage is one call; the rounds are in files of their own.
#include "evolora/pipeline/run.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "evolora/core/random.h"
#include "evolora/core/sha256.h"
#include "evolora/core/status_macros.h"
#include "evolora/core/trigger.h"
#include "failure_round.h"
#include "gate_round.h"
#include "run_state.h"
#include "training_round.h"

namespace evolora {
namespace {

// The version the run starts from: the champion at its first start, kept so that a second start
// does not begin from what the first one committed.
absl::Status OpenStart(RunState& run) {
  Home& home = *run.tools.home;
  EvidenceStore& evidence = home.evidence();
  const absl::StatusOr<Json> known = evidence.Get(EvidenceKind::kCheckpoint, run.run_id, "start");
  std::string start;
  if (known.ok()) {
    start = known->at("version").get<std::string>();
  } else if (absl::IsNotFound(known.status())) {
    ASSIGN_OR_RETURN(const VersionRecord bare, RegisterBareBase(home, run.options.base));
    ASSIGN_OR_RETURN(const AliasRecord champion, home.registry().GetAlias("champion"));
    start = champion.version_id.empty() ? bare.id : champion.version_id;
    if (champion.version_id.empty()) {
      RETURN_IF_ERROR(home.registry()
                          .MoveAlias({.alias = "champion",
                                      .version_id = bare.id,
                                      .expected_epoch = champion.epoch,
                                      .reason = "the bare base",
                                      .override_reason = "first version of this home"})
                          .status());
    }
    run.Keep(EvidenceKind::kCheckpoint, "start", Json{{"version", start}});
    RETURN_IF_ERROR(run.Flush());
  } else {
    return known.status();
  }
  ASSIGN_OR_RETURN(run.champion, OpenVersion(home, start, run.tools.load_adapter));
  const BaseReference& base = run.champion.record.manifest.base;
  if (base.weights_fingerprint != run.options.base.weights_fingerprint) {
    return absl::FailedPreconditionError(absl::StrCat(
        "version ", start, " stands on base ", base.name, " (",
        base.weights_fingerprint.substr(0, 12), "), the run uses ", run.options.base.name, " (",
        run.options.base.weights_fingerprint.substr(0, 12), ")"));
  }
  run.result.start_version = start;
  return absl::OkStatus();
}

// The stream in the run's order: a seeded permutation, so that order is a factor of an experiment.
std::vector<Case> OrderedStream(const RunState& run) {
  std::vector<Case> ordered;
  const std::vector<Case>& cases = run.stream.stream();
  Random random(DeriveSeed(run.options.seed, "stream order"));
  for (const int64_t i : random.Permutation(static_cast<int64_t>(cases.size()))) {
    ordered.push_back(cases[static_cast<size_t>(i)]);
  }
  return ordered;
}

// Solves one window with the champion and keeps the episodes. Returns the failures in order.
absl::StatusOr<std::vector<Solved>> SolveWindow(RunState& run, absl::Span<const Case> window) {
  ASSIGN_OR_RETURN(const std::vector<Episode> episodes, run.Booked(run.result.solve, [&] {
    return run.solver.Solve(run.champion.view, window);
  }));
  std::vector<Solved> failures;
  for (size_t i = 0; i < window.size(); ++i) {
    const Episode& episode = episodes[i];
    run.Keep(EvidenceKind::kEpisode, absl::StrFormat("%05d", run.requests_seen),
             EpisodeToJson(episode));
    ++run.requests_seen;
    run.request_texts[window[i].cluster].push_back(RequestText(window[i].messages));
    if (run.observer.on_episode) run.observer.on_episode(episode);
    if (episode.feedback.success) {
      run.passed.push_back({window[i], episode});
    } else {
      failures.push_back({window[i], episode});
    }
  }
  run.result.episodes += static_cast<int64_t>(window.size());
  run.result.failures += static_cast<int64_t>(failures.size());
  RETURN_IF_ERROR(run.Flush());
  return failures;
}

absl::Status RunWindow(RunState& run, absl::Span<const Case> window, int64_t remaining) {
  ASSIGN_OR_RETURN(const std::vector<Solved> failures, SolveWindow(run, window));
  RETURN_IF_ERROR(ConsiderFailures(run, failures));
  RETURN_IF_ERROR(JudgePendingPatches(run));
  return TrainDueTickets(run, remaining);
}

// What a finished run is remembered by; only values that a second start gives again.
Json ResultJson(const RunState& run) {
  const auto tokens = [](const Compute& spent) {
    return Json{{"prompt_tokens", spent.prompt_tokens},
                {"generated_tokens", spent.generated_tokens},
                {"trained_tokens", spent.trained_tokens}};
  };
  return Json{{"start", run.result.start_version},  {"final", run.result.final_version},
              {"versions", run.result.versions},    {"episodes", run.result.episodes},
              {"failures", run.result.failures},    {"solve", tokens(run.result.solve)},
              {"evolve", tokens(run.result.evolve)}};
}

}  // namespace

std::string RunId(const RunOptions& options, const Stream& stream) {
  const Json identity{{"base", options.base.weights_fingerprint},
                      {"model", options.model_fingerprint},
                      {"stream", stream.digest()},
                      {"gate", options.gate},
                      {"seed", options.seed},
                      {"router", RouterName(options.decisions.router)},
                      {"window", options.window},
                      {"budget", options.evolve_token_budget},
                      {"alpha", options.gate_policy.alpha},
                      {"anchor_delta", options.gate_policy.anchor_delta},
                      {"gate_chunk", options.gate_chunk},
                      {"context_tokens", options.solve.context_token_budget}};
  return Sha256Hex(CanonicalJson(identity)).substr(0, 16);
}

absl::StatusOr<RunResult> RunLoop(const RunTools& tools, const Stream& stream,
                                  const RunOptions& options, const RunObserver& observer,
                                  std::stop_token stop) {
  RunState run(tools, stream, options, observer, std::move(stop));
  RETURN_IF_ERROR(OpenStart(run));
  const std::vector<Case> cases = OrderedStream(run);
  const int64_t total = static_cast<int64_t>(cases.size());
  for (int64_t begin = 0; begin < total; begin += options.window) {
    RETURN_IF_ERROR(run.GoOnBetween("two windows"));
    const int64_t count = std::min(options.window, total - begin);
    run.Progress("stream", begin, total);
    RETURN_IF_ERROR(RunWindow(
        run,
        absl::MakeConstSpan(cases).subspan(static_cast<size_t>(begin), static_cast<size_t>(count)),
        total - begin - count));
  }
  run.Progress("stream", total, total);
  for (const PendingPatch& left : run.pending) {
    run.Note(absl::StrCat(left.case_id, ": patch dropped, the gate could not decide about it"));
  }
  run.result.final_version = run.champion.record.id;
  run.Keep(EvidenceKind::kCheckpoint, "result", ResultJson(run));
  RETURN_IF_ERROR(run.Flush());
  return std::move(run.result);
}

}  // namespace evolora
