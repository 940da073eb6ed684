#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "decoder.h"
#include "evolora/core/random.h"
#include "evolora/model/engine.h"
#include "prefix_store.h"

namespace evolora {

// One Generate call: admits rows while there is room, steps them together, samples, retires.
// Requests are checked already; `loras` has one entry per request.
class Generation {
 public:
  // `prefixes`, whose blocks are of `pool`, is read and added to.
  Generation(Decoder& decoder, KvPool& pool, PrefixStore& prefixes, const EngineOptions& options,
             absl::Span<const EngineRequest> requests, std::vector<const PackedLora*> loras);

  absl::StatusOr<std::vector<EngineCompletion>> Run();
  // Of this run.
  const Compute& spent() const { return spent_; }

 private:
  struct Row {
    size_t request;
    std::vector<TokenId> context;  // prompt, what was generated, and guesses to be checked
    int64_t num_guessed = 0;       // at the end of context
    std::unique_ptr<KvCache> cache;
    const PackedLora* lora;
    Random random;
    int64_t capacity;  // positions the cache may hold
    int64_t cache_bytes;
    bool is_done = false;
    int64_t known() const { return static_cast<int64_t>(context.size()) - num_guessed; }
    // Tokens whose keys and values are missing; the last of them gives the next logits.
    int64_t todo() const { return known() - cache->length(); }
  };
  struct Planned {
    Row* row;
    int64_t count;  // tokens of this step, guesses included
  };
  // What the model chooses after one position.
  struct Choice {
    TokenId id;
    double logprob;
  };

  void Admit();
  bool TakesPrefixLater(size_t index);
  std::vector<Planned> PlanStep();
  absl::Status Step(const std::vector<Planned>& plan);
  // Whether the row's next token is of its prompt.
  bool InPrompt(const Row& row) const;
  void Guess(Row& row, int64_t num_decoding) const;
  absl::Status SampleRows(absl::Span<Row* const> rows);
  absl::StatusOr<std::vector<Choice>> Choose(absl::Span<Row* const> row_of_logits);
  void AcceptChecked(Row& row, absl::Span<const Choice> choices);
  void Accept(Row& row, const Choice& choice);
  void Retire();

  Decoder& decoder_;
  KvPool& pool_;
  PrefixStore& prefixes_;
  const EngineOptions& options_;
  absl::Span<const EngineRequest> requests_;
  std::vector<const PackedLora*> loras_;
  std::vector<EngineCompletion> completions_;
  std::vector<std::unique_ptr<Row>> rows_;  // active, equal adapters side by side
  size_t next_request_ = 0;
  int64_t cache_bytes_ = 0;
  std::vector<float> hidden_, logits_;
  Compute spent_;
};

}  // namespace evolora
