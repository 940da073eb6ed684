#include "failure_round.h"

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "evolora/core/status_macros.h"
#include "failure_work.h"

namespace evolora {
namespace {

using Works = std::vector<std::unique_ptr<FailureWork>>;

absl::Status AboutCase(const absl::Status& status, const FailureWork& work) {
  return Annotate(status, absl::StrCat("failure of case ", work.case_id()));
}

// How many of the failures that are left, from the front, can be probed before the first of them is
// decided without a probe that turns out unneeded: of each cluster those that come before its
// signature can be established, all where it is already. At least one.
size_t NumIndependent(const RunState& run, absl::Span<const std::unique_ptr<FailureWork>> left) {
  std::map<std::string, int64_t> room;
  for (size_t i = 0; i < left.size(); ++i) {
    const std::string& cluster = left[i]->cluster();
    const ClusterEvidence evidence = EvidenceOf(run.ledger, cluster);
    const int64_t needed = ProbesUntilEstablished(evidence, run.options.probes);
    if (needed == 0) continue;
    if (++room[cluster] > needed) return i;
  }
  return left.size();
}

// Runs the probes of several failures side by side, one of each at a time: a model call over many
// rows costs little more than one over few. The memo then answers when each failure is handled.
absl::Status ProbeAhead(RunState& run, absl::Span<const std::unique_ptr<FailureWork>> works) {
  std::vector<FailureWork*> open;
  for (const auto& work : works) open.push_back(work.get());
  while (!open.empty()) {
    RETURN_IF_ERROR(run.GoOnBetween("two probes"));
    std::vector<FailureWork*> asking;
    std::vector<GenerateRequest> all;
    for (FailureWork* work : open) {
      absl::StatusOr<std::vector<GenerateRequest>> requests = work->RequestsAhead();
      if (!requests.ok()) return AboutCase(requests.status(), *work);
      if (requests->empty()) continue;
      asking.push_back(work);
      for (GenerateRequest& request : *requests) all.push_back(std::move(request));
    }
    if (!all.empty()) RETURN_IF_ERROR(run.memo.Generate(all).status());
    for (FailureWork* work : asking) RETURN_IF_ERROR(AboutCase(work->TakeAhead(), *work));
    open = std::move(asking);
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ConsiderFailures(RunState& run, absl::Span<const Solved> failures) {
  Works works;
  for (const Solved& failed : failures) {
    works.push_back(std::make_unique<FailureWork>(run, failed, failures));
    RETURN_IF_ERROR(AboutCase(works.back()->Propose(), *works.back()));
  }
  size_t ahead = 0;  // failures probed so far
  for (size_t i = 0; i < works.size(); ++i) {
    RETURN_IF_ERROR(run.GoOnBetween("two failures"));
    // What is computed ahead could pass a token budget unseen.
    if (i == ahead && run.options.evolve_token_budget == 0) {
      const auto left = absl::MakeConstSpan(works).subspan(i);
      ahead = i + NumIndependent(run, left);
      RETURN_IF_ERROR(ProbeAhead(run, left.first(ahead - i)));
    }
    RETURN_IF_ERROR(AboutCase(works[i]->Handle(), *works[i]));
    run.failed[failures[i].value.cluster].push_back(failures[i]);
    run.Progress("probe", static_cast<int64_t>(i) + 1, static_cast<int64_t>(works.size()));
  }
  return run.Flush();
}

}  // namespace evolora
