#include "scoring.h"

#include <algorithm>
#include <cmath>

#include "ATen/Parallel.h"
#include "absl/strings/str_cat.h"
#include "evolora/core/status_macros.h"
#include "evolora/model/kernels.h"

namespace evolora {
namespace {

// Rows of logits held at once.
constexpr size_t kHeadRows = 64;

}  // namespace

Scoring::Scoring(Decoder& decoder, KvPool& pool, const EngineOptions& options,
                 absl::Span<const ScoreRequest> requests, std::vector<const PackedLora*> loras)
    : decoder_(decoder),
      pool_(pool),
      options_(options),
      requests_(requests),
      loras_(std::move(loras)),
      results_(requests.size()),
      caches_(requests.size()) {
  for (size_t i = 0; i < requests.size(); ++i) {
    results_[i].logprobs.resize(requests[i].ids.size() - 1);
    spent_.prompt_tokens += static_cast<int64_t>(requests[i].ids.size());
  }
}

absl::StatusOr<std::vector<Scored>> Scoring::Run() {
  while (next_request_ < requests_.size()) RETURN_IF_ERROR(Step(PlanStep()));
  return std::move(results_);
}

std::vector<Scoring::Chunk> Scoring::PlanStep() {
  std::vector<Chunk> chunks;
  int64_t budget = options_.max_step_tokens;
  int64_t bytes = 0;
  while (next_request_ < requests_.size() && budget > 0) {
    const auto total = static_cast<int64_t>(requests_[next_request_].ids.size());
    bytes += KvCache::BytesFor(decoder_.config(), total);
    if (!chunks.empty() && bytes > options_.max_cache_bytes) break;
    const int64_t end = std::min(total, next_token_ + budget);
    chunks.push_back({next_request_, next_token_, end});
    budget -= end - next_token_;
    next_token_ = end;
    if (end < total) break;
    ++next_request_;
    next_token_ = 0;
  }
  return chunks;
}

absl::Status Scoring::Step(const std::vector<Chunk>& chunks) {
  const LlamaConfig& config = decoder_.config();
  std::vector<Decoder::Row> rows;
  for (const Chunk& chunk : chunks) {
    const std::vector<TokenId>& ids = requests_[chunk.request].ids;
    auto& cache = caches_[chunk.request];
    if (cache == nullptr) {
      cache = std::make_unique<KvCache>(pool_, static_cast<int64_t>(ids.size()));
    }
    const PackedLora* lora = loras_[chunk.request];
    rows.push_back({absl::MakeConstSpan(ids).subspan(static_cast<size_t>(chunk.begin),
                                                     static_cast<size_t>(chunk.end - chunk.begin)),
                    cache.get(), lora, /*of_prompt=*/true});
    for (int64_t t = chunk.begin; t < chunk.end; ++t) {
      spent_.flops += LayerFlopsPerToken(config, t) + (lora ? lora->flops_per_token : 0);
    }
  }
  const float* hidden = decoder_.Step(rows);
  std::vector<Wanted> wanted;
  for (const Chunk& chunk : chunks) {
    const ScoreRequest& request = requests_[chunk.request];
    const auto last = static_cast<int64_t>(request.ids.size()) - 1;
    for (int64_t t = chunk.begin; t < chunk.end; ++t, hidden += config.hidden_size) {
      if (t < last || request.want_last_logits) wanted.push_back({chunk.request, t, hidden});
    }
    if (chunk.end > last) caches_[chunk.request] = nullptr;
  }
  const absl::Span<const Wanted> all = wanted;
  for (size_t i = 0; i < all.size(); i += kHeadRows) {
    RETURN_IF_ERROR(ReadLogits(all.subspan(i, kHeadRows)));
  }
  return absl::OkStatus();
}

absl::Status Scoring::ReadLogits(absl::Span<const Wanted> wanted) {
  const int64_t vocab = decoder_.config().vocab_size;
  const int64_t width = decoder_.config().hidden_size;
  gathered_.resize(wanted.size() * static_cast<size_t>(width));
  logits_.resize(wanted.size() * static_cast<size_t>(vocab));
  for (size_t i = 0; i < wanted.size(); ++i) {
    std::copy_n(wanted[i].hidden, width, gathered_.data() + i * static_cast<size_t>(width));
  }
  decoder_.Head(gathered_.data(), static_cast<int64_t>(wanted.size()), logits_.data());
  spent_.flops += HeadFlopsPerRow(decoder_.config()) * static_cast<double>(wanted.size());
  std::vector<double> totals(wanted.size());
  at::parallel_for(0, static_cast<int64_t>(wanted.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      totals[static_cast<size_t>(i)] = Kernels().log_sum_exp(logits_.data() + i * vocab, vocab);
    }
  });
  for (size_t i = 0; i < wanted.size(); ++i) {
    const auto& [request, position, hidden] = wanted[i];
    const float* row = logits_.data() + i * static_cast<size_t>(vocab);
    if (!std::isfinite(totals[i])) {
      return absl::InternalError(
          absl::StrCat("row ", request, ": logits are not finite at position ", position));
    }
    const auto next = static_cast<size_t>(position) + 1;
    if (next < requests_[request].ids.size()) {
      results_[request].logprobs[next - 1] =
          static_cast<float>(row[requests_[request].ids[next]] - totals[i]);
    } else {
      results_[request].last_logits.assign(row, row + vocab);
    }
  }
  return absl::OkStatus();
}

}  // namespace evolora
