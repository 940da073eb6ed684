#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "evolora/data/stream.h"
#include "evolora/eval/evaluate.h"
#include "evolora/eval/solver.h"

namespace evolora {

// Two versions compared on the cases of one split.
struct SplitComparison {
  std::string split;  // stream, query, anchor or test
  PairedSummary total;
  std::vector<PairedSummary> clusters;  // sorted by name
  std::vector<PairedEpisodes> pairs;
};

// Solves `cases` under both states. Equal requests are computed once.
absl::StatusOr<SplitComparison> CompareOn(Solver& solver, const StateView& before,
                                          const StateView& after, const std::string& split,
                                          absl::Span<const Case> cases,
                                          const std::function<void(int64_t, int64_t)>& on_progress);

// All four splits; opens the sealed test split once, recording the look.
struct FinalComparison {
  std::vector<SplitComparison> splits;
  int64_t num_looks = 0;  // at the sealed split so far, this one included
};
absl::StatusOr<FinalComparison> CompareVersions(
    Solver& solver, const StateView& before, const StateView& after, const Stream& stream,
    LookRecorder& recorder, absl::string_view reason,
    const std::function<void(const std::string& split, int64_t, int64_t)>& on_progress);

}  // namespace evolora
