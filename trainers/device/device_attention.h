#pragma once

#include <cstdint>
#include <memory>

#include "ATen/core/Tensor.h"
#include "device/device_math.h"
#include "device/device_tokens.h"
#include "device/packed_attention.h"
#include "device/plain_attention.h"
#include "evolora/model/llama_config.h"

namespace evolora {

// Causal attention over the rows of a micro-batch, and its gradient. q, k and v stand side by side
// in a row of `qkv` [N, (H + 2 K) E], after RoPE; H / K query heads share a key head.
//
// A row sees its path: the segments above it and its own tokens. Queries exist once for each token;
// where rows share prefixes, the keys and values of each path are copied next to each other, so
// that a row is one packed sequence of few queries and more keys, aligned at their ends, as flash
// attention has it: one call for all rows, exact with windows, too. The gradients of the copies are
// added up token by token in one order. The other form, a call for each depth of the tree merged by
// log-sums, copies nothing but needs as many calls as the tree is deep, knows no windows, since the
// queries below a prefix do not stand at consecutive positions, and rounds a query's output once
// more for each depth. Copies cost P x 2 K E values for the time of a layer, and are bounded
// (device_batches.h).
//
// Without `packed`: PlainAttention.
class DeviceAttention {
 public:
  // All outlive the object; `packed` may be null.
  DeviceAttention(const LlamaConfig& config, const DeviceMath& math, const PackedAttention* packed);

  // Returns mixed [N, H E].
  at::Tensor Forward(int64_t layer, const DeviceTokens& tokens, const at::Tensor& qkv,
                     PackedAttention::Kept& kept) const;
  // Writes d_qkv [N, (H + 2 K) E] from d_mixed [N, H E].
  void Backward(int64_t layer, const DeviceTokens& tokens, const at::Tensor& qkv,
                const PackedAttention::Kept& kept, const at::Tensor& d_mixed,
                const at::Tensor& d_qkv) const;

 private:
  AttentionHeads Split(const at::Tensor& qkv) const;
  AttentionHeads HeadsOf(const DeviceTokens& tokens, const at::Tensor& qkv) const;
  PackedAttention::Sequences SequencesOf(int64_t layer, const DeviceTokens& tokens) const;

  const LlamaConfig& config_;
  const DeviceMath& math_;
  const PackedAttention* packed_;
  PlainAttention plain_;
};

}  // namespace evolora
