// N tokens, P keys, H query heads, K key heads, E head width.
#include "device/device_attention.h"

#include <cmath>

#include "ATen/Functions.h"

namespace evolora {

DeviceAttention::DeviceAttention(const LlamaConfig& config, const DeviceMath& math,
                                 const PackedAttention* packed)
    : config_(config), math_(math), packed_(packed), plain_(config, math) {}

// Views [N, heads, E] of the three.
AttentionHeads DeviceAttention::Split(const at::Tensor& qkv) const {
  const int64_t tokens = qkv.size(0), width = config_.head_dim;
  const int64_t queries = config_.num_heads, keys = config_.num_kv_heads;
  return {qkv.narrow(1, 0, queries * width).view({tokens, queries, width}),
          qkv.narrow(1, queries * width, keys * width).view({tokens, keys, width}),
          qkv.narrow(1, (queries + keys) * width, keys * width).view({tokens, keys, width})};
}

// With the keys and values of paths [P, K, E] where rows share prefixes.
AttentionHeads DeviceAttention::HeadsOf(const DeviceTokens& tokens, const at::Tensor& qkv) const {
  AttentionHeads heads = Split(qkv);
  if (!tokens.key_begin.defined()) return heads;
  const int64_t queries = config_.num_heads * config_.head_dim, keys = config_.num_kv_heads;
  const at::Tensor both = qkv.narrow(1, queries, qkv.size(1) - queries)
                              .index_select(0, tokens.key_tokens)
                              .view({tokens.key_tokens.size(0), 2 * keys, config_.head_dim});
  heads.k = both.narrow(1, 0, keys);
  heads.v = both.narrow(1, keys, keys);
  return heads;
}

PackedAttention::Sequences DeviceAttention::SequencesOf(int64_t layer,
                                                        const DeviceTokens& tokens) const {
  return {.q_begin = tokens.row_begin,
          .k_begin = tokens.key_begin.defined() ? tokens.key_begin : tokens.row_begin,
          .longest = tokens.shape.longest_row,
          .scale = 1 / std::sqrt(static_cast<double>(config_.head_dim)),
          .window = LayerWindow(config_, layer)};
}

at::Tensor DeviceAttention::Forward(int64_t layer, const DeviceTokens& tokens,
                                    const at::Tensor& qkv, PackedAttention::Kept& kept) const {
  if (packed_ == nullptr) return plain_.Forward(LayerWindow(config_, layer), tokens, qkv);
  kept = packed_->Forward(SequencesOf(layer, tokens), HeadsOf(tokens, qkv));
  return kept.mixed.view({tokens.shape.tokens, config_.num_heads * config_.head_dim});
}

void DeviceAttention::Backward(int64_t layer, const DeviceTokens& tokens, const at::Tensor& qkv,
                               const PackedAttention::Kept& kept, const at::Tensor& d_mixed,
                               const at::Tensor& d_qkv) const {
  if (packed_ == nullptr) {
    return plain_.Backward(LayerWindow(config_, layer), tokens, qkv, d_mixed, d_qkv);
  }
  const AttentionHeads d = packed_->Backward(SequencesOf(layer, tokens), HeadsOf(tokens, qkv), kept,
                                             d_mixed.view(kept.mixed.sizes()));
  const AttentionHeads out = Split(d_qkv);
  out.q.copy_(d.q);
  if (!tokens.key_begin.defined()) {
    out.k.copy_(d.k);
    out.v.copy_(d.v);
    return;
  }
  const int64_t queries = config_.num_heads * config_.head_dim;
  const int64_t width = config_.num_kv_heads * config_.head_dim;
  math_.SumRows(d.k.flatten(1), tokens.places_of_keys, d_qkv.narrow(1, queries, width));
  math_.SumRows(d.v.flatten(1), tokens.places_of_keys, d_qkv.narrow(1, queries + width, width));
}

}  // namespace evolora
