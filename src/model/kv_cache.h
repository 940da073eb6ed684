#pragma once

#include <cstdint>

#include "evolora/core/float_memory.h"
#include "evolora/model/llama_config.h"

namespace evolora {

// Keys (after RoPE) and values of one row, all layers, in the panels the kernels read:
//   keys    [layer][kv_head][capacity / 32][head_dim][32 positions]
//   values  [layer][kv_head][ceil(head_dim / 32)][capacity][32 elements]
// Not thread-safe, but different positions may be written at once.
class KvCache {
 public:
  // Room for `capacity` >= 1 positions (rounded up to 32). Contents start undefined.
  KvCache(const LlamaConfig& config, int64_t capacity);

  static int64_t BytesFor(const LlamaConfig& config, int64_t capacity);

  int64_t capacity() const { return capacity_; }
  // Positions 0 .. length-1 are valid in every layer.
  int64_t length() const { return length_; }
  void set_length(int64_t length) { length_ = length; }

  // Stores one position; `key` and `value` are [num_kv_heads * head_dim].
  void Put(int64_t layer, int64_t position, const float* key, const float* value);
  // Takes over the first `count` positions of `donor` (same config); the length becomes `count`.
  void CopyPrefix(const KvCache& donor, int64_t count);

  // [head_dim, 32] keys of positions 32 * panel .. 32 * panel + 31.
  const float* KeyPanel(int64_t layer, int64_t kv_head, int64_t panel) const;
  // [capacity, 32] elements 32 * panel .. of the values.
  const float* ValuePanel(int64_t layer, int64_t kv_head, int64_t panel) const;

 private:
  int64_t num_layers_, num_kv_heads_, head_dim_, value_panels_;
  int64_t capacity_;
  int64_t length_ = 0;
  int64_t keys_per_head_, values_per_head_;  // floats
  FloatMemory keys_, values_;
};

}  // namespace evolora
