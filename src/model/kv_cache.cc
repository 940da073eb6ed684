#include "kv_cache.h"

#include <algorithm>

#include "evolora/core/check.h"
#include "evolora/model/kernels.h"

namespace evolora {
namespace {

int64_t RoundUp(int64_t value) {
  return (value + kPanelColumns - 1) / kPanelColumns * kPanelColumns;
}

}  // namespace

KvCache::KvCache(const LlamaConfig& c, int64_t capacity)
    : num_layers_(c.num_layers),
      num_kv_heads_(c.num_kv_heads),
      head_dim_(c.head_dim),
      value_panels_(RoundUp(c.head_dim) / kPanelColumns),
      capacity_(RoundUp(capacity)),
      keys_per_head_(capacity_ * head_dim_),
      values_per_head_(capacity_ * value_panels_ * kPanelColumns),
      keys_(AllocateFloats(num_layers_ * num_kv_heads_ * keys_per_head_)),
      values_(AllocateFloats(num_layers_ * num_kv_heads_ * values_per_head_)) {}

int64_t KvCache::BytesFor(const LlamaConfig& c, int64_t capacity) {
  const int64_t floats_per_position = c.head_dim + RoundUp(c.head_dim);
  return 4 * c.num_layers * c.num_kv_heads * RoundUp(capacity) * floats_per_position;
}

void KvCache::Put(int64_t layer, int64_t position, const float* key, const float* value) {
  EVOLORA_CHECK(position < capacity_, "KV cache overrun");
  for (int64_t head = 0; head < num_kv_heads_; ++head) {
    const int64_t index = layer * num_kv_heads_ + head;
    float* keys = keys_.get() + index * keys_per_head_ +
                  position / kPanelColumns * kPanelColumns * head_dim_ + position % kPanelColumns;
    for (int64_t e = 0; e < head_dim_; ++e) keys[e * kPanelColumns] = key[head * head_dim_ + e];
    float* values = values_.get() + index * values_per_head_ + position * kPanelColumns;
    for (int64_t e = 0; e < head_dim_; ++e) {
      values[e / kPanelColumns * capacity_ * kPanelColumns + e % kPanelColumns] =
          value[head * head_dim_ + e];
    }
  }
}

void KvCache::CopyPrefix(const KvCache& donor, int64_t count) {
  EVOLORA_CHECK(count <= donor.length_ && count <= capacity_, "prefix longer than a cache");
  const int64_t num_heads = num_layers_ * num_kv_heads_;
  const int64_t num_keys = RoundUp(count) * head_dim_;
  for (int64_t head = 0; head < num_heads; ++head) {
    std::copy_n(donor.keys_.get() + head * donor.keys_per_head_, num_keys,
                keys_.get() + head * keys_per_head_);
    for (int64_t panel = 0; panel < value_panels_; ++panel) {
      std::copy_n(donor.values_.get() + head * donor.values_per_head_ +
                      panel * donor.capacity_ * kPanelColumns,
                  count * kPanelColumns,
                  values_.get() + head * values_per_head_ + panel * capacity_ * kPanelColumns);
    }
  }
  length_ = count;
}

const float* KvCache::KeyPanel(int64_t layer, int64_t kv_head, int64_t panel) const {
  return keys_.get() + (layer * num_kv_heads_ + kv_head) * keys_per_head_ +
         panel * kPanelColumns * head_dim_;
}

const float* KvCache::ValuePanel(int64_t layer, int64_t kv_head, int64_t panel) const {
  return values_.get() + (layer * num_kv_heads_ + kv_head) * values_per_head_ +
         panel * capacity_ * kPanelColumns;
}

}  // namespace evolora
