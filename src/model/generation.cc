#include "generation.h"

#include <algorithm>
#include <cmath>

#include "ATen/Parallel.h"
#include "absl/strings/str_cat.h"
#include "evolora/core/check.h"
#include "evolora/core/status_macros.h"
#include "evolora/model/kernels.h"
#include "prompt_lookup.h"
#include "sampler.h"

namespace evolora {
namespace {

// A shorter shared prefix is cheaper to compute than to look for.
constexpr int64_t kMinSharedPrefix = 16;

}  // namespace

Generation::Generation(Decoder& decoder, KvPool& pool, PrefixStore& prefixes,
                       const EngineOptions& options, absl::Span<const EngineRequest> requests,
                       std::vector<const PackedLora*> loras)
    : decoder_(decoder),
      pool_(pool),
      prefixes_(prefixes),
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
                                  .cache = std::make_unique<KvCache>(pool_, capacity),
                                  .lora = loras_[next_request_],
                                  .random = Random(DeriveSeed(request.sampling.seed, "sample")),
                                  .capacity = capacity,
                                  .cache_bytes = bytes}));
    spent_.prompt_tokens += static_cast<int64_t>(request.prompt.size());
    ++next_request_;
  }
  if (rows_.size() == before) return;
  std::stable_sort(rows_.begin(), rows_.end(), [&](const auto& a, const auto& b) {
    return requests_[a->request].adapter < requests_[b->request].adapter;
  });
}

// For a row that has not started: takes over the longest prefix that is kept or that an active row
// with the same adapter has computed, or returns true when a row ahead of it is about to compute a
// longer one.
bool Generation::TakesPrefixLater(size_t index) {
  Row& row = *rows_[index];
  if (row.cache->length() > 0) return false;
  const auto usable = static_cast<int64_t>(row.context.size()) - 1;
  const PrefixStore::Match kept =
      prefixes_.Find(row.lora, absl::MakeConstSpan(row.context).first(static_cast<size_t>(usable)));
  const KvCache* donor = kept.cache;
  int64_t available = kept.count;
  int64_t promised = 0;
  for (size_t i = 0; i < rows_.size(); ++i) {
    const Row& other = *rows_[i];
    if (i == index || other.lora != row.lora) continue;
    const int64_t shared =
        CommonPrefix(absl::MakeConstSpan(row.context).first(static_cast<size_t>(usable)),
                     requests_[other.request].prompt);
    const int64_t ready = std::min(shared, other.cache->length());
    if (ready > available) {
      available = ready;
      donor = other.cache.get();
    }
    if (i < index) promised = std::max(promised, shared);
  }
  if (promised > available && promised >= kMinSharedPrefix) return true;
  if (available >= kMinSharedPrefix) row.cache->TakeBeginning(*donor, available);
  return false;
}

bool Generation::InPrompt(const Row& row) const {
  return row.cache->length() < static_cast<int64_t>(requests_[row.request].prompt.size());
}

// Puts guesses behind a row that decodes greedily. Up to about 16 tokens a step cost little more
// than one, since a step reads every weight once.
void Generation::Guess(Row& row, int64_t num_decoding) const {
  constexpr int64_t kCheapTokens = 16;
  if (requests_[row.request].sampling.temperature != 0 || InPrompt(row)) return;
  const int64_t room = row.capacity - row.known();
  const int64_t limit =
      std::min({options_.max_lookup_tokens, kCheapTokens / num_decoding - 1, room});
  const std::vector<TokenId> guesses = GuessNext(row.context, limit);
  row.num_guessed = static_cast<int64_t>(guesses.size());
  row.context.insert(row.context.end(), guesses.begin(), guesses.end());
}

std::vector<Generation::Planned> Generation::PlanStep() {
  std::vector<Planned> plan;
  const int64_t num_decoding =
      std::count_if(rows_.begin(), rows_.end(), [](const auto& row) { return row->todo() == 1; });
  int64_t budget = options_.max_step_tokens - num_decoding;
  for (size_t i = 0; i < rows_.size(); ++i) {
    Row& row = *rows_[i];
    if (row.todo() == 1) {
      Guess(row, num_decoding);
      plan.push_back({&row, 1 + row.num_guessed});
      continue;
    }
    if (budget <= 0 || TakesPrefixLater(i)) continue;
    const int64_t count = std::min(row.todo(), budget);
    budget -= count;
    plan.push_back({&row, count});
  }
  EVOLORA_CHECK(!plan.empty(), "a step without tokens");
  std::stable_partition(plan.begin(), plan.end(),
                        [&](const Planned& p) { return !InPrompt(*p.row); });
  return plan;
}

absl::Status Generation::Step(const std::vector<Planned>& plan) {
  std::vector<Decoder::Row> step;
  const LlamaConfig& config = decoder_.config();
  for (const Planned& p : plan) {
    const int64_t start = p.row->cache->length();
    step.push_back({absl::MakeConstSpan(p.row->context)
                        .subspan(static_cast<size_t>(start), static_cast<size_t>(p.count)),
                    p.row->cache.get(), p.row->lora, InPrompt(*p.row)});
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
    const float* last = hidden + (end - 1 - p.row->num_guessed) * config.hidden_size;
    hidden_.insert(hidden_.end(), last, hidden + end * config.hidden_size);
  }
  if (ready.empty()) return absl::OkStatus();
  const auto num_logits = static_cast<int64_t>(hidden_.size()) / config.hidden_size;
  logits_.resize(static_cast<size_t>(num_logits * config.vocab_size));
  decoder_.Head(hidden_.data(), num_logits, logits_.data());
  spent_.flops += HeadFlopsPerRow(config) * static_cast<double>(num_logits);
  return SampleRows(ready);
}

absl::Status Generation::SampleRows(absl::Span<Row* const> rows) {
  std::vector<Row*> row_of_logits;
  for (Row* row : rows) {
    row_of_logits.insert(row_of_logits.end(), static_cast<size_t>(1 + row->num_guessed), row);
  }
  ASSIGN_OR_RETURN(const std::vector<Choice> choices, Choose(row_of_logits));
  size_t first = 0;
  for (Row* row : rows) {
    const auto count = static_cast<size_t>(1 + row->num_guessed);
    AcceptChecked(*row, absl::MakeConstSpan(choices).subspan(first, count));
    first += count;
  }
  return absl::OkStatus();
}

// One choice for each row of logits_. A row that samples has one row of logits, so its random
// numbers are drawn in order.
absl::StatusOr<std::vector<Generation::Choice>> Generation::Choose(
    absl::Span<Row* const> row_of_logits) {
  const int64_t vocab = decoder_.config().vocab_size;
  std::vector<Choice> choices(row_of_logits.size());
  at::parallel_for(0, static_cast<int64_t>(choices.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      Row& row = *row_of_logits[static_cast<size_t>(i)];
      const float* logits = logits_.data() + i * vocab;
      const double total = Kernels().log_sum_exp(logits, vocab);
      const TokenId id =
          std::isfinite(total)
              ? SampleToken(logits, vocab, requests_[row.request].sampling, row.random)
              : 0;
      choices[static_cast<size_t>(i)] = {id, logits[id] - total};
    }
  });
  for (size_t i = 0; i < choices.size(); ++i) {
    if (std::isfinite(choices[i].logprob)) continue;
    const Row& row = *row_of_logits[i];
    return absl::InternalError(
        absl::StrCat("row ", row.request, ": logits are not finite at position ", row.known() - 1));
  }
  return choices;
}

// Takes the choices up to and with the first that differs from its guess.
void Generation::AcceptChecked(Row& row, absl::Span<const Choice> choices) {
  const auto known = static_cast<size_t>(row.known());
  const std::vector<TokenId> guesses(row.context.begin() + static_cast<int64_t>(known),
                                     row.context.end());
  row.context.resize(known);
  row.num_guessed = 0;
  for (size_t i = 0; i < choices.size() && !row.is_done; ++i) {
    row.cache->set_length(static_cast<int64_t>(known + i));
    Accept(row, choices[i]);
    if (i < guesses.size() && guesses[i] != choices[i].id) return;
  }
}

void Generation::Accept(Row& row, const Choice& choice) {
  const EngineRequest& request = requests_[row.request];
  EngineCompletion& completion = completions_[row.request];
  const auto& stops = request.stop_ids;
  spent_.generated_tokens += 1;
  if (std::find(stops.begin(), stops.end(), choice.id) != stops.end()) {
    completion.stopped = row.is_done = true;
    completion.stop_id = choice.id;
    completion.stop_logprob = choice.logprob;
    return;
  }
  row.context.push_back(choice.id);
  completion.ids.push_back(choice.id);
  completion.logprobs.push_back(choice.logprob);
  if (request.on_token && request.on_token(choice.id)) {
    completion.stopped = row.is_done = true;
  } else if (static_cast<int32_t>(completion.ids.size()) >= request.max_new_tokens) {
    row.is_done = true;
  }
}

void Generation::Retire() {
  const bool any_done =
      std::any_of(rows_.begin(), rows_.end(), [](const auto& row) { return row->is_done; });
  if (!any_done) return;
  for (const auto& row : rows_) {
    if (row->is_done) prefixes_.Keep(row->lora, requests_[row->request].prompt, *row->cache);
  }
  // Last call for rows that have been waiting for a prefix of one that leaves now.
  for (size_t i = 0; i < rows_.size(); ++i) TakesPrefixLater(i);
  for (const auto& row : rows_) cache_bytes_ -= row->is_done ? row->cache_bytes : 0;
  rows_.erase(
      std::remove_if(rows_.begin(), rows_.end(), [](const auto& row) { return row->is_done; }),
      rows_.end());
}

}  // namespace evolora
