#include "prefix_store.h"

#include <algorithm>
#include <utility>

namespace evolora {

int64_t CommonPrefix(absl::Span<const TokenId> a, absl::Span<const TokenId> b) {
  return std::mismatch(a.begin(), a.end(), b.begin(), b.end()).first - a.begin();
}

PrefixStore::Match PrefixStore::Find(const PackedLora* lora, absl::Span<const TokenId> prompt) {
  Match match;
  Entries::iterator best = entries_.end();
  for (auto entry = entries_.begin(); entry != entries_.end(); ++entry) {
    if (entry->lora != lora) continue;
    const int64_t count = CommonPrefix(prompt, entry->prompt);
    if (count <= match.count) continue;
    match = {&entry->cache, count};
    best = entry;
  }
  if (best != entries_.end()) entries_.splice(entries_.begin(), entries_, best);
  return match;
}

void PrefixStore::Keep(const PackedLora* lora, absl::Span<const TokenId> prompt,
                       const KvCache& cache) {
  const auto size = static_cast<int64_t>(prompt.size());
  if (KvCache::BytesFor(config_, size) > max_bytes_ || Find(lora, prompt).count == size) return;
  entries_.push_front({lora, {prompt.begin(), prompt.end()}, cache.Beginning(size)});
  for (const auto& block : entries_.front().cache.blocks()) ++blocks_[block.get()];
  for (auto entry = std::next(entries_.begin()); entry != entries_.end();) {
    const bool begins_it = entry->lora == lora && CommonPrefix(entry->prompt, prompt) ==
                                                      static_cast<int64_t>(entry->prompt.size());
    entry = begins_it ? Erase(entry) : std::next(entry);
  }
  while (num_bytes() > max_bytes_) Erase(std::prev(entries_.end()));
}

void PrefixStore::Forget(const PackedLora* lora) {
  for (auto entry = entries_.begin(); entry != entries_.end();) {
    entry = entry->lora == lora ? Erase(entry) : std::next(entry);
  }
}

PrefixStore::Entries::iterator PrefixStore::Erase(Entries::iterator entry) {
  for (const auto& block : entry->cache.blocks()) {
    const auto held = blocks_.find(block.get());
    if (--held->second == 0) blocks_.erase(held);
  }
  return entries_.erase(entry);
}

int64_t PrefixStore::num_bytes() const {
  return static_cast<int64_t>(blocks_.size()) * KvPool::BytesOfBlock(config_);
}

}  // namespace evolora
