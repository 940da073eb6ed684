#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/types/span.h"
#include "evolora/model/llama_config.h"
#include "kv_pool.h"

namespace evolora {

// Keys (after RoPE) and values of one row, all layers, in blocks of 32 positions, which hold the
// panels that the kernels read:
//   keys    [layer][kv_head][head_dim][32 positions]
//   values  [layer][kv_head][ceil(head_dim / 32)][32 positions][32 elements]
// Rows that begin with the same tokens share the whole blocks of that beginning (paged attention,
// Kwon et al. 2023), which lie in memory, and are read into the processor's caches, once.
// Not thread-safe, but different positions may be written at once.
class KvCache {
 public:
  // Room for `capacity` >= 1 positions; `pool`, which outlives the cache, lends blocks as the row
  // grows. Contents start undefined.
  KvCache(KvPool& pool, int64_t capacity);

  // Of a row that shares nothing.
  static int64_t BytesFor(const LlamaConfig& config, int64_t capacity);

  // Positions 0 .. length-1 are valid in every layer.
  int64_t length() const { return length_; }
  void set_length(int64_t length) { length_ = length; }

  // Blocks for positions 0 .. length-1, before they are put.
  void Grow(int64_t length);
  // Stores one position; `key` and `value` are [num_kv_heads * head_dim]. Never of a shared block.
  void Put(int64_t layer, int64_t position, const float* key, const float* value);
  // Takes over the first `count` positions of `donor` (same pool), in place of all there were:
  // shares whole blocks and copies the rest. The length becomes `count`.
  void TakeBeginning(const KvCache& donor, int64_t count);
  // The first `count` positions, sharing the last block, too: no more is put into either.
  KvCache Beginning(int64_t count) const;

  // [head_dim, 32] keys of positions 32 * block .. 32 * block + 31.
  const float* KeyPanel(int64_t layer, int64_t kv_head, int64_t block) const;
  // [32, 32] elements 32 * panel .. of the values of those positions.
  const float* ValuePanel(int64_t layer, int64_t kv_head, int64_t panel, int64_t block) const;

  absl::Span<const std::shared_ptr<float>> blocks() const { return blocks_; }

 private:
  int64_t keys_per_head() const { return head_dim_ * KvPool::kPositions; }
  int64_t values_per_panel() const;
  // Floats of a block before the keys or values of a head of a layer.
  int64_t FirstKey(int64_t layer, int64_t kv_head) const;
  int64_t FirstValue(int64_t layer, int64_t kv_head) const;

  KvPool* pool_;
  int64_t num_layers_, num_kv_heads_, head_dim_, value_panels_;
  int64_t capacity_;
  int64_t length_ = 0;
  std::vector<std::shared_ptr<float>> blocks_;
};

}  // namespace evolora
