#include "kv_cache.h"

#include <algorithm>

#include "evolora/core/check.h"
#include "evolora/model/kernels.h"

namespace evolora {
namespace {

constexpr int64_t kPositions = KvPool::kPositions;
static_assert(kPositions == kPanelColumns);

int64_t NumBlocks(int64_t positions) { return (positions + kPositions - 1) / kPositions; }

}  // namespace

KvCache::KvCache(KvPool& pool, int64_t capacity)
    : pool_(&pool),
      num_layers_(pool.config().num_layers),
      num_kv_heads_(pool.config().num_kv_heads),
      head_dim_(pool.config().head_dim),
      value_panels_((head_dim_ + kPanelColumns - 1) / kPanelColumns),
      capacity_(capacity) {}

int64_t KvCache::BytesFor(const LlamaConfig& config, int64_t capacity) {
  return NumBlocks(capacity) * KvPool::BytesOfBlock(config);
}

int64_t KvCache::values_per_panel() const { return kPositions * kPanelColumns; }

int64_t KvCache::FirstKey(int64_t layer, int64_t kv_head) const {
  return (layer * num_kv_heads_ + kv_head) * (keys_per_head() + value_panels_ * values_per_panel());
}

int64_t KvCache::FirstValue(int64_t layer, int64_t kv_head) const {
  return FirstKey(layer, kv_head) + keys_per_head();
}

void KvCache::Grow(int64_t length) {
  EVOLORA_CHECK(length <= capacity_, "KV cache overrun");
  while (static_cast<int64_t>(blocks_.size()) < NumBlocks(length)) blocks_.push_back(pool_->Take());
}

void KvCache::Put(int64_t layer, int64_t position, const float* key, const float* value) {
  float* block = blocks_[static_cast<size_t>(position / kPositions)].get();
  const int64_t place = position % kPositions;
  for (int64_t head = 0; head < num_kv_heads_; ++head, key += head_dim_, value += head_dim_) {
    float* keys = block + FirstKey(layer, head) + place;
    for (int64_t e = 0; e < head_dim_; ++e) keys[e * kPositions] = key[e];
    float* values = block + FirstValue(layer, head) + place * kPanelColumns;
    for (int64_t e = 0; e < head_dim_; e += kPanelColumns, values += values_per_panel()) {
      std::copy_n(value + e, std::min(kPanelColumns, head_dim_ - e), values);
    }
  }
}

void KvCache::TakeBeginning(const KvCache& donor, int64_t count) {
  EVOLORA_CHECK(count <= donor.length_ && count <= capacity_, "prefix longer than a cache");
  const auto shared = donor.blocks_.begin() + count / kPositions;
  blocks_.assign(donor.blocks_.begin(), shared);
  length_ = count;
  if (count % kPositions == 0) return;
  Grow(count);
  const float* from = shared->get();
  float* to = blocks_.back().get();
  for (int64_t layer = 0; layer < num_layers_; ++layer) {
    for (int64_t head = 0; head < num_kv_heads_; ++head) {
      const int64_t key = FirstKey(layer, head), value = FirstValue(layer, head);
      std::copy_n(from + key, keys_per_head(), to + key);
      for (int64_t panel = 0; panel < value_panels_; ++panel) {
        const int64_t first = value + panel * values_per_panel();
        std::copy_n(from + first, count % kPositions * kPanelColumns, to + first);
      }
    }
  }
}

KvCache KvCache::Beginning(int64_t count) const {
  EVOLORA_CHECK(count <= length_, "prefix longer than a cache");
  KvCache beginning(*pool_, count);
  beginning.blocks_.assign(blocks_.begin(), blocks_.begin() + NumBlocks(count));
  beginning.length_ = count;
  return beginning;
}

const float* KvCache::KeyPanel(int64_t layer, int64_t kv_head, int64_t block) const {
  return blocks_[static_cast<size_t>(block)].get() + FirstKey(layer, kv_head);
}

const float* KvCache::ValuePanel(int64_t layer, int64_t kv_head, int64_t panel,
                                 int64_t block) const {
  return blocks_[static_cast<size_t>(block)].get() + FirstValue(layer, kv_head) +
         panel * values_per_panel();
}

}  // namespace evolora
