#include "evolora/model/engine.h"

#include <algorithm>
#include <type_traits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "c10/core/InferenceMode.h"
#include "decoder.h"
#include "evolora/core/status_macros.h"
#include "evolora/model/lora_tensors.h"
#include "evolora/model/torch_status.h"
#include "generation.h"
#include "packed_lora.h"
#include "prefix_store.h"
#include "sampler.h"
#include "scoring.h"

namespace evolora {
namespace {

// Of keys and values, kept for the next call: touching as much anew takes 3 % of a call of 16 rows
// of 100 tokens.
constexpr int64_t kKeptCacheBytes = int64_t{128} << 20;

absl::Status CheckOptions(const EngineOptions& options) {
  if (options.max_rows < 1 || options.max_step_tokens < 1 || options.max_cache_bytes < 1) {
    return absl::InvalidArgumentError(absl::StrCat("engine options: max_rows = ", options.max_rows,
                                                   ", max_step_tokens = ", options.max_step_tokens,
                                                   ", max_cache_bytes = ", options.max_cache_bytes,
                                                   "; all must be positive"));
  }
  if (options.max_lookup_tokens < 0 || options.max_lookup_tokens > 64) {
    return absl::InvalidArgumentError(absl::StrCat(
        "engine options: max_lookup_tokens = ", options.max_lookup_tokens, " is not in [0, 64]"));
  }
  if (options.max_prefix_bytes < 0) {
    return absl::InvalidArgumentError(absl::StrCat(
        "engine options: max_prefix_bytes = ", options.max_prefix_bytes, " is negative"));
  }
  if (options.clock == nullptr) return absl::InvalidArgumentError("engine options: no clock");
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Engine>> Engine::Create(std::shared_ptr<const LlamaWeights> weights,
                                                       const EngineOptions& options) {
  if (weights == nullptr) return absl::InvalidArgumentError("engine: no weights");
  RETURN_IF_ERROR(CheckOptions(options));
  return CatchTorch("Engine::Create", [&]() -> absl::StatusOr<std::unique_ptr<Engine>> {
    c10::InferenceMode inference;
    return std::unique_ptr<Engine>(new Engine(std::move(weights), options));
  });
}

Engine::Engine(std::shared_ptr<const LlamaWeights> weights, const EngineOptions& options)
    : options_(options),
      decoder_(std::make_unique<Decoder>(std::move(weights),
                                         FrozenOptions{options.weights, options.rows_of_steps})),
      pool_(std::make_unique<KvPool>(decoder_->config())),
      prefixes_(std::make_unique<PrefixStore>(decoder_->config(), options.max_prefix_bytes)) {}

Engine::~Engine() = default;

const LlamaConfig& Engine::config() const { return decoder_->config(); }

absl::StatusOr<std::string> Engine::LoadAdapter(const LoraAdapter& adapter) {
  ASSIGN_OR_RETURN(const LoraTensors lora, LoraTensorsFromAdapter(config(), adapter));
  std::string digest = AdapterDigest(adapter);
  return CatchTorch("Engine::LoadAdapter", [&]() -> absl::StatusOr<std::string> {
    LoadedLora& slot = loras_[digest];
    if (slot.packed != nullptr) return digest;
    slot.packed = std::make_unique<PackedLora>(decoder_->weights(), lora);
    if (!lora.saved.empty()) {
      slot.decoder = std::make_unique<Decoder>(*decoder_, lora.saved);
    }
    return digest;
  });
}

absl::Status Engine::UnloadAdapter(const std::string& digest) {
  const auto lora = loras_.find(digest);
  if (lora == loras_.end()) {
    return absl::NotFoundError(absl::StrCat("adapter ", digest, " is not loaded"));
  }
  prefixes_->Forget(lora->second.packed.get());
  loras_.erase(lora);
  return absl::OkStatus();
}

std::vector<std::string> Engine::LoadedAdapters() const {
  std::vector<std::string> digests;
  for (const auto& [digest, lora] : loras_) digests.push_back(digest);
  return digests;
}

const PackedLora* Engine::FindLora(const std::string& adapter) const {
  return adapter.empty() ? nullptr : loras_.at(adapter).packed.get();
}

template <typename Request>
std::vector<const PackedLora*> Engine::LorasOf(absl::Span<const Request> requests) const {
  std::vector<const PackedLora*> loras;
  for (const Request& request : requests) loras.push_back(FindLora(request.adapter));
  return loras;
}

// Requests by the decoder that runs them, each group in order.
template <typename Request>
std::vector<Engine::Group> Engine::ByDecoder(absl::Span<const Request> requests) const {
  std::vector<Group> groups;
  for (size_t i = 0; i < requests.size(); ++i) {
    const std::string& adapter = requests[i].adapter;
    Decoder* decoder = adapter.empty() ? nullptr : loras_.at(adapter).decoder.get();
    if (decoder == nullptr) decoder = decoder_.get();
    auto group = std::find_if(groups.begin(), groups.end(),
                              [&](const Group& g) { return g.decoder == decoder; });
    if (group == groups.end()) group = groups.insert(groups.end(), {decoder, {}});
    group->requests.push_back(i);
  }
  return groups;
}

template <typename Request, typename Run>
auto Engine::RunGroups(absl::Span<const Request> requests, const Run& run) const {
  using Results = std::decay_t<decltype(*run(*decoder_, requests))>;
  absl::StatusOr<Results> all = Results(requests.size());
  const std::vector<Group> groups = ByDecoder(requests);
  if (groups.size() == 1) return run(*groups.front().decoder, requests);
  for (const auto& [decoder, indices] : groups) {
    std::vector<Request> own;
    own.reserve(indices.size());
    for (const size_t i : indices) own.push_back(requests[i]);
    auto results = run(*decoder, absl::MakeConstSpan(own));
    if (!results.ok()) return absl::StatusOr<Results>(results.status());
    for (size_t k = 0; k < indices.size(); ++k) (*all)[indices[k]] = std::move((*results)[k]);
  }
  return all;
}

absl::Status Engine::CheckRow(size_t row, absl::Span<const TokenId> ids, int64_t new_tokens,
                              const std::string& adapter) const {
  const auto count = static_cast<int64_t>(ids.size());
  if (count == 0) return absl::InvalidArgumentError(absl::StrCat("row ", row, ": empty prompt"));
  for (size_t t = 0; t < ids.size(); ++t) {
    if (ids[t] < 0 || ids[t] >= config().vocab_size) {
      return absl::InvalidArgumentError(absl::StrCat("row ", row, ": id ", ids[t], " at position ",
                                                     t, " is outside the vocabulary of ",
                                                     config().vocab_size));
    }
  }
  if (count + new_tokens > config().max_positions) {
    return absl::InvalidArgumentError(absl::StrCat("row ", row, ": ", count, " prompt and ",
                                                   new_tokens, " new tokens exceed the context of ",
                                                   config().max_positions));
  }
  const int64_t bytes = KvCache::BytesFor(config(), count + new_tokens);
  if (bytes > options_.max_cache_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat("row ", row, ": needs ", bytes,
                                                     " cache bytes, max_cache_bytes is ",
                                                     options_.max_cache_bytes));
  }
  if (!adapter.empty() && loras_.count(adapter) == 0) {
    return absl::NotFoundError(absl::StrCat("row ", row, ": adapter ", adapter, " is not loaded"));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<EngineCompletion>> Engine::Generate(
    absl::Span<const EngineRequest> requests) {
  for (size_t i = 0; i < requests.size(); ++i) {
    const EngineRequest& request = requests[i];
    if (request.max_new_tokens < 1) {
      return absl::InvalidArgumentError(
          absl::StrCat("row ", i, ": max_new_tokens = ", request.max_new_tokens));
    }
    RETURN_IF_ERROR(CheckRow(i, request.prompt, request.max_new_tokens, request.adapter));
    RETURN_IF_ERROR(Annotate(CheckSampling(request.sampling), absl::StrCat("row ", i)));
  }
  using Result = absl::StatusOr<std::vector<EngineCompletion>>;
  return CatchTorch("Engine::Generate", [&]() -> Result {
    c10::InferenceMode inference;
    const double start = options_.clock->MonotonicSeconds();
    Result result =
        RunGroups(requests, [&](Decoder& decoder, absl::Span<const EngineRequest> rows) -> Result {
          Generation generation(decoder, *pool_, *prefixes_, options_, rows, LorasOf(rows));
          Result group = generation.Run();
          spent_ += generation.spent();
          return group;
        });
    pool_->Shrink(kKeptCacheBytes);
    spent_.seconds += options_.clock->MonotonicSeconds() - start;
    return result;
  });
}

absl::StatusOr<std::vector<Scored>> Engine::Score(absl::Span<const ScoreRequest> requests) {
  for (size_t i = 0; i < requests.size(); ++i) {
    RETURN_IF_ERROR(CheckRow(i, requests[i].ids, 0, requests[i].adapter));
  }
  using Result = absl::StatusOr<std::vector<Scored>>;
  return CatchTorch("Engine::Score", [&]() -> Result {
    c10::InferenceMode inference;
    const double start = options_.clock->MonotonicSeconds();
    Result result =
        RunGroups(requests, [&](Decoder& decoder, absl::Span<const ScoreRequest> rows) -> Result {
          Scoring scoring(decoder, *pool_, options_, rows, LorasOf(rows));
          Result group = scoring.Run();
          spent_ += scoring.spent();
          return group;
        });
    pool_->Shrink(kKeptCacheBytes);
    spent_.seconds += options_.clock->MonotonicSeconds() - start;
    return result;
  });
}

}  // namespace evolora
