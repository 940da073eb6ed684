#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "evolora/core/case.h"
#include "evolora/core/episode.h"
#include "evolora/core/interval.h"
#include "evolora/eval/solver.h"

namespace evolora {

// One case under both states.
struct PairedEpisodes {
  std::string case_id;
  std::string cluster;
  bool identical_request = false;  // both states ask the model the same: a tie by construction
  Episode champion;
  Episode candidate;
};

// Solves cases under champion and candidate, chunk by chunk in the given order, so that a
// sequential test may stop early. Equal requests are computed once and give equal outcomes. Does
// not own solver and cases, which must outlive it. Threads: one caller at a time.
class PairedEvaluation {
 public:
  // REQUIRES: chunk_size >= 1.
  PairedEvaluation(Solver& solver, StateView champion, StateView candidate,
                   std::vector<const Case*> cases, int64_t chunk_size);

  // The next chunk; empty when all cases are done. After an error the chunk may be asked for again.
  // Errors: those of Solver.
  absl::StatusOr<std::vector<PairedEpisodes>> Next();
  bool done() const { return next_ >= cases_.size(); }

 private:
  Solver* solver_;
  StateView champion_;
  StateView candidate_;
  std::vector<const Case*> cases_;
  size_t chunk_size_;
  size_t next_ = 0;
};

// Counts over pairs, with fixed-sample 95 % intervals for reports (core/interval.h).
struct PairedSummary {
  std::string cluster;  // "" over all clusters
  int64_t num_cases = 0;
  int64_t both_right = 0;
  int64_t only_candidate = 0;
  int64_t only_champion = 0;
  int64_t none_right = 0;
  int64_t num_identical = 0;          // pairs of identical requests
  Interval champion_rate;             // Wilson
  Interval candidate_rate;            // Wilson
  Interval difference;                // candidate - champion, paired (Newcombe)
  double champion_answer_tokens = 0;  // mean generated tokens
  double candidate_answer_tokens = 0;
};

PairedSummary Summarise(absl::Span<const PairedEpisodes> outcomes);
// One summary per cluster, sorted by name.
std::vector<PairedSummary> SummariseByCluster(absl::Span<const PairedEpisodes> outcomes);

// The same for one state: cases solved and right.
struct RateSummary {
  std::string cluster;  // "" over all clusters
  int64_t num_cases = 0;
  int64_t right = 0;
  int64_t tool_errors = 0;
  Interval rate;  // Wilson
  double mean_answer_tokens = 0;
};
RateSummary Summarise(absl::Span<const Episode> episodes);
std::vector<RateSummary> SummariseByCluster(absl::Span<const Episode> episodes);

}  // namespace evolora
