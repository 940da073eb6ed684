#include "evolora/pipeline/measure.h"

#include <utility>

#include "evolora/core/status_macros.h"

namespace evolora {

absl::StatusOr<SplitComparison> CompareOn(
    Solver& solver, const StateView& before, const StateView& after, const std::string& split,
    absl::Span<const Case> cases, const std::function<void(int64_t, int64_t)>& on_progress) {
  constexpr int64_t kChunk = 64;
  std::vector<const Case*> pointers;
  for (const Case& c : cases) pointers.push_back(&c);
  PairedEvaluation evaluation(solver, before, after, std::move(pointers), kChunk);
  SplitComparison comparison{.split = split};
  while (!evaluation.done()) {
    ASSIGN_OR_RETURN(std::vector<PairedEpisodes> chunk, evaluation.Next());
    for (PairedEpisodes& pair : chunk) comparison.pairs.push_back(std::move(pair));
    if (on_progress) {
      on_progress(static_cast<int64_t>(comparison.pairs.size()),
                  static_cast<int64_t>(cases.size()));
    }
  }
  comparison.total = Summarise(comparison.pairs);
  comparison.clusters = SummariseByCluster(comparison.pairs);
  return comparison;
}

absl::StatusOr<FinalComparison> CompareVersions(
    Solver& solver, const StateView& before, const StateView& after, const Stream& stream,
    LookRecorder& recorder, absl::string_view reason,
    const std::function<void(const std::string& split, int64_t, int64_t)>& on_progress) {
  ASSIGN_OR_RETURN(const OpenedSeal seal, stream.OpenSealed(recorder, reason));
  FinalComparison comparison{.num_looks = seal.num_looks};
  const std::pair<const char*, const std::vector<Case>*> splits[] = {{"stream", &stream.stream()},
                                                                     {"query", &stream.query()},
                                                                     {"anchor", &stream.anchor()},
                                                                     {"test", &seal.cases}};
  for (const auto& [name, cases] : splits) {
    const std::string split = name;
    const auto progress = [&](int64_t done, int64_t total) {
      if (on_progress) on_progress(split, done, total);
    };
    ASSIGN_OR_RETURN(SplitComparison part,
                     CompareOn(solver, before, after, split, *cases, progress));
    comparison.splits.push_back(std::move(part));
  }
  return comparison;
}

}  // namespace evolora
