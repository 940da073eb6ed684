#include "generation.h"

#include <algorithm>
#include <cmath>

#include "ATen/Parallel.h"
#include "absl/strings/str_cat.h"
#include "evolora/core/check.h"
#include "evolora/core/status_macros.h"
#include "kernels.h"
#include "sampler.h"

namespace evolora {
namespace {

// A shorter shared prefix is cheaper to compute than to look for.
constexpr int64_t kMinSharedPrefix = 16;

int64_t CommonPrefix(const std::vector<TokenId>& a, const std::vector<TokenId>& b) {
  return std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin();
}

}  // namespace

Generation::Generation(Decoder& decoder, const EngineOptions& options,
                       absl::Span<const EngineRequest> requests,
                       std::vector<const PackedLora*> loras)
    : decoder_(decoder),
      options_(options),
      requests_(requests),
      loras_(std::move(loras)),
      completions_(requests.size()) {}

absl::StatusOr<std::vector<EngineCompletion>> Generation::Run() {
  while (next_request_ < requests_.size() || !rows_.empty()) {
    Admit();
    RETURN_IF_ERROR(Step(PlanStep()));
    Retire();
  }
  return std::move(completions_);
}

void Generation::Admit() {
  const size_t before = rows_.size();
  while (next_request_ < requests_.size() &&
         static_cast<int64_t>(rows_.size()) < options_.max_rows) {
    const EngineRequest& request = requests_[next_request_];
    // The last generated token is never fed back.
    const int64_t capacity =
        static_cast<int64_t>(request.prompt.size()) + request.max_new_tokens - 1;
    const int64_t bytes = KvCache::BytesFor(decoder_.config(), capacity);
    if (!rows_.empty() && cache_bytes_ + bytes > options_.max_cache_bytes) break;
    cache_bytes_ += bytes;
    rows_.push_back(
        std::make_unique<Row>(Row{.request = next_request_,
                                  .context = request.prompt,
                                  .cache = std::make_unique<KvCache>(decoder_.config(), capacity),
                                  .lora = loras_[next_request_],
                                  .random = Random(DeriveSeed(request.sampling.seed, "sample")),
                                  .cache_bytes = bytes}));
    spent_.prompt_tokens += static_cast<int64_t>(request.prompt.size());
    ++next_request_;
  }
  if (rows_.size() == before) return;
  std::stable_sort(rows_.begin(), rows_.end(), [&](const auto& a, const auto& b) {
    return requests_[a->request].adapter < requests_[b->request].adapter;
  });
}

// For a row that has not started: takes over the longest prefix an active row with the same adapter
// has computed, or returns true when a row ahead of it is about to compute a longer one.
bool Generation::TakesPrefixLater(size_t index) {
  Row& row = *rows_[index];
  if (row.cache->length() > 0) return false;
  const auto usable = static_cast<int64_t>(row.context.size()) - 1;
  const Row* donor = nullptr;
  int64_t available = 0;
  int64_t promised = 0;
  for (size_t i = 0; i < rows_.size(); ++i) {
    const Row& other = *rows_[i];
    if (i == index || other.lora != row.lora) continue;
    const int64_t shared = std::min(usable, CommonPrefix(row.context, other.context));
    const int64_t ready = std::min(shared, other.cache->length());
    if (ready > available) {
      available = ready;
      donor = &other;
    }
    if (i < index) promised = std::max(promised, shared);
  }
  if (promised > available && promised >= kMinSharedPrefix) return true;
  if (available >= kMinSharedPrefix) row.cache->CopyPrefix(*donor->cache, available);
  return false;
}

std::vector<Generation::Planned> Generation::PlanStep() {
  std::vector<Planned> plan;
  int64_t budget = options_.max_step_tokens;
  for (const auto& row : rows_) budget -= row->todo() == 1 ? 1 : 0;
  for (size_t i = 0; i < rows_.size(); ++i) {
    Row& row = *rows_[i];
    if (row.todo() == 1) {
      plan.push_back({&row, 1});
      continue;
    }
    if (budget <= 0 || TakesPrefixLater(i)) continue;
    const int64_t count = std::min(row.todo(), budget);
    budget -= count;
    plan.push_back({&row, count});
  }
  EVOLORA_CHECK(!plan.empty(), "a step without tokens");
  return plan;
}

absl::Status Generation::Step(const std::vector<Planned>& plan) {
  std::vector<Decoder::Row> step;
  const LlamaConfig& config = decoder_.config();
  for (const Planned& p : plan) {
    const int64_t start = p.row->cache->length();
    step.push_back({absl::MakeConstSpan(p.row->context)
                        .subspan(static_cast<size_t>(start), static_cast<size_t>(p.count)),
                    p.row->cache.get(), p.row->lora});
    for (int64_t t = start; t < start + p.count; ++t) {
      spent_.flops += LayerFlopsPerToken(config, t);
      if (p.row->lora != nullptr) spent_.flops += p.row->lora->flops_per_token;
    }
  }
  const float* hidden = decoder_.Step(step);
  std::vector<Row*> ready;
  hidden_.clear();
  int64_t end = 0;
  for (const Planned& p : plan) {
    end += p.count;
    if (p.row->todo() > 0) continue;
    ready.push_back(p.row);
    const float* last = hidden + (end - 1) * config.hidden_size;
    hidden_.insert(hidden_.end(), last, last + config.hidden_size);
  }
  if (ready.empty()) return absl::OkStatus();
  logits_.resize(ready.size() * static_cast<size_t>(config.vocab_size));
  decoder_.Head(hidden_.data(), static_cast<int64_t>(ready.size()), logits_.data());
  spent_.flops += HeadFlopsPerRow(config) * static_cast<double>(ready.size());
  return SampleRows(ready, logits_);
}

absl::Status Generation::SampleRows(absl::Span<Row* const> rows, const std::vector<float>& logits) {
  const int64_t vocab = decoder_.config().vocab_size;
  std::vector<TokenId> picked(rows.size());
  std::vector<double> logprobs(rows.size());
  at::parallel_for(0, static_cast<int64_t>(rows.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      Row& row = *rows[static_cast<size_t>(i)];
      const float* row_logits = logits.data() + i * vocab;
      const double total = Kernels().log_sum_exp(row_logits, vocab);
      const TokenId id =
          std::isfinite(total)
              ? SampleToken(row_logits, vocab, requests_[row.request].sampling, row.random)
              : 0;
      picked[static_cast<size_t>(i)] = id;
      logprobs[static_cast<size_t>(i)] = row_logits[id] - total;
    }
  });
  for (size_t i = 0; i < rows.size(); ++i) {
    if (!std::isfinite(logprobs[i])) {
      return absl::InternalError(absl::StrCat("row ", rows[i]->request,
                                              ": logits are not finite at position ",
                                              rows[i]->context.size() - 1));
    }
    Accept(*rows[i], picked[i], logprobs[i]);
  }
  return absl::OkStatus();
}

void Generation::Accept(Row& row, TokenId id, double logprob) {
  const EngineRequest& request = requests_[row.request];
  EngineCompletion& completion = completions_[row.request];
  const auto& stops = request.stop_ids;
  spent_.generated_tokens += 1;
  if (std::find(stops.begin(), stops.end(), id) != stops.end()) {
    completion.stopped = row.is_done = true;
    return;
  }
  row.context.push_back(id);
  completion.ids.push_back(id);
  completion.logprobs.push_back(logprob);
  if (request.on_token && request.on_token(id)) {
    completion.stopped = row.is_done = true;
  } else if (static_cast<int32_t>(completion.ids.size()) >= request.max_new_tokens) {
    row.is_done = true;
  }
}

void Generation::Retire() {
  const bool any_done =
      std::any_of(rows_.begin(), rows_.end(), [](const auto& row) { return row->is_done; });
  if (!any_done) return;
  // Last call for rows that have been waiting for a prefix of one that leaves now.
  for (size_t i = 0; i < rows_.size(); ++i) TakesPrefixLater(i);
  for (const auto& row : rows_) cache_bytes_ -= row->is_done ? row->cache_bytes : 0;
  rows_.erase(
      std::remove_if(rows_.begin(), rows_.end(), [](const auto& row) { return row->is_done; }),
      rows_.end());
}

}  // namespace evolora
