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
    match = {entry->cache.get(), count};
    best = entry;
  }
  if (best != entries_.end()) entries_.splice(entries_.begin(), entries_, best);
  return match;
}

void PrefixStore::Keep(const PackedLora* lora, absl::Span<const TokenId> prompt,
                       const KvCache& cache) {
  const auto size = static_cast<int64_t>(prompt.size());
  const int64_t bytes = KvCache::BytesFor(config_, size);
  if (bytes > max_bytes_ || Find(lora, prompt).count == size) return;
  for (auto entry = entries_.begin(); entry != entries_.end();) {
    const bool begins_it = entry->lora == lora && CommonPrefix(entry->prompt, prompt) ==
                                                      static_cast<int64_t>(entry->prompt.size());
    entry = begins_it ? Erase(entry) : std::next(entry);
  }
  while (num_bytes_ + bytes > max_bytes_) Erase(std::prev(entries_.end()));
  auto copy = std::make_unique<KvCache>(config_, size);
  copy->CopyPrefix(cache, size);
  entries_.push_front({lora, {prompt.begin(), prompt.end()}, std::move(copy), bytes});
  num_bytes_ += bytes;
}

void PrefixStore::Forget(const PackedLora* lora) {
  for (auto entry = entries_.begin(); entry != entries_.end();) {
    entry = entry->lora == lora ? Erase(entry) : std::next(entry);
  }
}

PrefixStore::Entries::iterator PrefixStore::Erase(Entries::iterator entry) {
  num_bytes_ -= entry->bytes;
  return entries_.erase(entry);
}

}  // namespace evolora
