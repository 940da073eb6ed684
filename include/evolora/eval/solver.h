#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "evolora/core/case.h"
#include "evolora/core/episode.h"
#include "evolora/core/language_model.h"
#include "evolora/core/trigger.h"
#include "evolora/state/composer.h"

namespace evolora {

// An adapter and the requests it is for.
struct AdapterRoute {
  Trigger scope;
  std::string adapter;  // digest under which the model has it loaded
};

// One version as the solver sees it. Triggers must be valid (ValidateTrigger).
struct StateView {
  std::string version_id;
  std::shared_ptr<const StateIndex> index;
  std::vector<AdapterRoute> routes;  // the first scope that matches wins; none: the bare base
};

// The adapter for a request as the user sent it (before composing); "" = bare base.
std::string RouteAdapter(const StateView& view, absl::Span<const Message> messages);

struct SolveOptions {
  // Longest answer for each kind of verifier; also bounds the cost of a model that rambles.
  std::map<VerifyType, int32_t> max_new_tokens = {
      {VerifyType::kExact, 32},  {VerifyType::kContains, 48}, {VerifyType::kRegex, 64},
      {VerifyType::kNumber, 96}, {VerifyType::kChoice, 16},   {VerifyType::kToolCall, 128}};
  int64_t context_token_budget = 384;  // ComposeOptions::token_budget
  RetrievalPolicy retrieval;
  int64_t now_unix_ms = 0;
  Sampling sampling;  // greedy by default
  std::vector<std::string> stop;
  int64_t batch_size = 256;  // requests handed to the model in one call
  // FLOPs of one request, counted from shapes; empty: episodes carry 0.
  std::function<double(int64_t prompt_tokens, int64_t generated_tokens)> count_flops;
};

// One solving of one case under controlled changes; how probes are run.
struct Replay {
  const Case* value = nullptr;  // not owned
  ForcedItems forced;
  std::set<std::string> disabled;             // item ids, see Composed::used
  std::optional<Sampling> sampling;           // instead of the options'
  std::optional<std::string> forced_adapter;  // instead of the route; "" = bare base
};

// Solves cases with one model: compose, route, generate, verify. Solve reads the state, never
// writes. Does not own `model`, which must outlive it. Threads: one caller at a time.
class Solver {
 public:
  Solver(LanguageModel& model, SolveOptions options);

  // One episode per case, in order.
  //
  // Errors: those of Compose (annotated with the case id) and of LanguageModel::Generate;
  //         InvalidArgument view without index, batch_size < 1.
  absl::StatusOr<std::vector<Episode>> Solve(const StateView& view, absl::Span<const Case> cases);
  absl::StatusOr<std::vector<Episode>> Solve(const StateView& view,
                                             absl::Span<const Case* const> cases);
  // One episode per replay, in order. Replays of one case need different sampling seeds.
  absl::StatusOr<std::vector<Episode>> SolveReplays(const StateView& view,
                                                    absl::Span<const Replay> replays);

  // A request as it would be sent, with what went into it. Asks the model for token counts only.
  struct Prepared {
    GenerateRequest request;
    std::vector<std::string> used;
    int64_t tokens_added = 0;
  };
  absl::StatusOr<Prepared> Prepare(const StateView& view, const Replay& replay) const;

  // The episode of one answered request: output made valid UTF-8 (U+FFFD), verified, id assigned.
  Episode MakeEpisode(const StateView& view, const Case& value, const Prepared& prepared,
                      const Completion& completion) const;

  LanguageModel& model() { return *model_; }
  const SolveOptions& options() const { return options_; }

 private:
  LanguageModel* model_;
  SolveOptions options_;
};

}  // namespace evolora
