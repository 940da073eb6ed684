#pragma once

#include <cstdint>
#include <list>
#include <unordered_map>
#include <vector>

#include "absl/types/span.h"
#include "evolora/core/tokenizer.h"
#include "kv_cache.h"

namespace evolora {

struct PackedLora;

// How many ids two sequences begin with in common.
int64_t CommonPrefix(absl::Span<const TokenId> a, absl::Span<const TokenId> b);

// Keys and values of prompts that were answered, the latest used ones up to a number of bytes: a
// later prompt that begins like one of them, under the same adapter, takes them over. What is taken
// over equals what would be computed bit for bit (engine.h), so a store changes no output.
// Threads: one caller at a time.
class PrefixStore {
 public:
  struct Match {
    const KvCache* cache = nullptr;  // valid until the next call of Keep or Forget
    int64_t count = 0;               // of its first positions that may be taken over
  };

  // 0 bytes: nothing is kept. What kept prompts share counts once.
  PrefixStore(const LlamaConfig& config, int64_t max_bytes)
      : config_(config), max_bytes_(max_bytes) {}

  // The longest common beginning with a kept prompt; it counts as used now.
  Match Find(const PackedLora* lora, absl::Span<const TokenId> prompt);
  // Keeps the first prompt.size() positions of `cache`, into which no more is put, in place of kept
  // prompts that begin it. Nothing happens when it is the beginning of a kept one, or larger than
  // the store.
  void Keep(const PackedLora* lora, absl::Span<const TokenId> prompt, const KvCache& cache);
  // Drops what was computed with an adapter.
  void Forget(const PackedLora* lora);

  int64_t num_bytes() const;

 private:
  struct Entry {
    const PackedLora* lora;
    std::vector<TokenId> prompt;
    KvCache cache;
  };
  using Entries = std::list<Entry>;

  Entries::iterator Erase(Entries::iterator entry);

  const LlamaConfig& config_;
  const int64_t max_bytes_;
  Entries entries_;                                   // the latest used first
  std::unordered_map<const float*, int64_t> blocks_;  // of how many entries each is
};

}  // namespace evolora
