#include "evolora/eval/evaluate.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "evolora/core/check.h"
#include "evolora/core/status_macros.h"
#include "evolora/eval/request_key.h"

namespace evolora {
namespace {

// The two requests of one case; `candidate_row` points at the champion's row when they are equal.
struct Pair {
  Solver::Prepared champion;
  Solver::Prepared candidate;
  size_t champion_row = 0;
  size_t candidate_row = 0;
};

absl::StatusOr<std::vector<Pair>> PreparePairs(const Solver& solver, const StateView& champion,
                                               const StateView& candidate,
                                               absl::Span<const Case* const> cases,
                                               std::vector<GenerateRequest>& requests) {
  std::vector<Pair> pairs;
  for (const Case* value : cases) {
    Replay replay;
    replay.value = value;
    Pair pair;
    ASSIGN_OR_RETURN(pair.champion, solver.Prepare(champion, replay));
    ASSIGN_OR_RETURN(pair.candidate, solver.Prepare(candidate, replay));
    pair.champion_row = pair.candidate_row = requests.size();
    requests.push_back(pair.champion.request);
    if (RequestKey(pair.champion.request) != RequestKey(pair.candidate.request)) {
      pair.candidate_row = requests.size();
      requests.push_back(pair.candidate.request);
    }
    pairs.push_back(std::move(pair));
  }
  return pairs;
}

template <typename T>
std::map<std::string, std::vector<T>> GroupByCluster(absl::Span<const T> items) {
  std::map<std::string, std::vector<T>> groups;
  for (const T& item : items) groups[item.cluster].push_back(item);
  return groups;
}

template <typename Summary, typename T>
std::vector<Summary> SummariseGroups(absl::Span<const T> items) {
  std::vector<Summary> out;
  for (const auto& [cluster, group] : GroupByCluster(items)) {
    out.push_back(Summarise(absl::MakeConstSpan(group)));
    out.back().cluster = cluster;
  }
  return out;
}

double Mean(int64_t sum, int64_t count) {
  return count == 0 ? 0 : static_cast<double>(sum) / static_cast<double>(count);
}

}  // namespace

PairedEvaluation::PairedEvaluation(Solver& solver, StateView champion, StateView candidate,
                                   std::vector<const Case*> cases, int64_t chunk_size)
    : solver_(&solver),
      champion_(std::move(champion)),
      candidate_(std::move(candidate)),
      cases_(std::move(cases)),
      chunk_size_(static_cast<size_t>(chunk_size)) {
  EVOLORA_CHECK(chunk_size >= 1, "a chunk holds at least one case");
}

absl::StatusOr<std::vector<PairedEpisodes>> PairedEvaluation::Next() {
  std::vector<PairedEpisodes> out;
  const auto chunk = absl::MakeConstSpan(cases_).subspan(next_, chunk_size_);
  if (chunk.empty()) return out;
  std::vector<GenerateRequest> requests;
  ASSIGN_OR_RETURN(const std::vector<Pair> pairs,
                   PreparePairs(*solver_, champion_, candidate_, chunk, requests));
  ASSIGN_OR_RETURN(const std::vector<Completion> completions, solver_->model().Generate(requests));
  for (size_t i = 0; i < chunk.size(); ++i) {
    const Pair& pair = pairs[i];
    PairedEpisodes outcome;
    outcome.case_id = chunk[i]->id;
    outcome.cluster = chunk[i]->cluster;
    outcome.identical_request = pair.champion_row == pair.candidate_row;
    outcome.champion =
        solver_->MakeEpisode(champion_, *chunk[i], pair.champion, completions[pair.champion_row]);
    outcome.candidate = solver_->MakeEpisode(candidate_, *chunk[i], pair.candidate,
                                             completions[pair.candidate_row]);
    out.push_back(std::move(outcome));
  }
  next_ += chunk.size();
  return out;
}

PairedSummary Summarise(absl::Span<const PairedEpisodes> outcomes) {
  PairedSummary out;
  int64_t champion_tokens = 0;
  int64_t candidate_tokens = 0;
  for (const PairedEpisodes& outcome : outcomes) {
    const bool before = outcome.champion.feedback.success;
    const bool after = outcome.candidate.feedback.success;
    ++(before ? (after ? out.both_right : out.only_champion)
              : (after ? out.only_candidate : out.none_right));
    out.num_identical += outcome.identical_request ? 1 : 0;
    champion_tokens += outcome.champion.compute.generated_tokens;
    candidate_tokens += outcome.candidate.compute.generated_tokens;
  }
  out.num_cases = static_cast<int64_t>(outcomes.size());
  out.champion_rate = WilsonInterval(out.both_right + out.only_champion, out.num_cases);
  out.candidate_rate = WilsonInterval(out.both_right + out.only_candidate, out.num_cases);
  out.difference = PairedDifferenceInterval(out.both_right, out.only_candidate, out.only_champion,
                                            out.none_right);
  out.champion_answer_tokens = Mean(champion_tokens, out.num_cases);
  out.candidate_answer_tokens = Mean(candidate_tokens, out.num_cases);
  return out;
}

std::vector<PairedSummary> SummariseByCluster(absl::Span<const PairedEpisodes> outcomes) {
  return SummariseGroups<PairedSummary>(outcomes);
}

RateSummary Summarise(absl::Span<const Episode> episodes) {
  RateSummary out;
  int64_t tokens = 0;
  for (const Episode& episode : episodes) {
    out.right += episode.feedback.success ? 1 : 0;
    out.tool_errors += episode.feedback.tool_error ? 1 : 0;
    tokens += episode.compute.generated_tokens;
  }
  out.num_cases = static_cast<int64_t>(episodes.size());
  out.rate = WilsonInterval(out.right, out.num_cases);
  out.mean_answer_tokens = Mean(tokens, out.num_cases);
  return out;
}

std::vector<RateSummary> SummariseByCluster(absl::Span<const Episode> episodes) {
  return SummariseGroups<RateSummary>(episodes);
}

}  // namespace evolora
