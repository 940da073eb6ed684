#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "ATen/core/Tensor.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "evolora/model/llama_weights.h"
#include "evolora/model/lora_tensors.h"

namespace evolora {

// The plain forward pass every faster one is compared with: one ATen operation per formula, built
// for reading and for autograd (gradients flow to LoraTensors whose tensors require them; the base
// stays frozen, and so does what a magnitude is divided by, as in PEFT). Numerics follow
// transformers' eager fp32 path: RMSNorm and softmax in fp32, rotate-half RoPE. All tensors may be
// float64 instead (weights, adapters), then everything is, except the RoPE tables, which stay fp32
// values as in transformers. The weights may be bf16: then activations are, and adapters in fp32
// need the caller's autocast for bf16 on the CPU; RMSNorm and softmax stay fp32 inside.
//
// Threads: reentrant; weights are only read. Memory: about 40 * B * T * D floats a layer under
// autograd, none of it freed before the backward pass.

// Tokens of a batch. B rows, T columns.
struct TokenBatch {
  at::Tensor ids;  // int64 [B, T]
  // int64 [B, T]: which sequence of its row a token belongs to; a token sees only earlier columns
  // of its own segment. Negative = padding, which no other token sees. Undefined = all one
  // sequence.
  at::Tensor segments;
  // int64 [B, T]: RoPE positions, also what a sliding window counts in; undefined = 0..T-1.
  at::Tensor positions;
};

// Rows of unequal length, padded on the right with id 0 (segments -1 there).
// InvalidArgument: no rows, or an empty row (named).
absl::StatusOr<TokenBatch> PadRight(absl::Span<const std::vector<int32_t>> rows);

// What the input of an adapter is multiplied with before its A (dropout): [B, T, in_features], by
// the adapted layer's path.
using AdapterInputFactors = std::function<at::Tensor(const std::string& path, int64_t in_features)>;

// Hidden states after the final norm, [B, T, D]. `lora` may be null: the bare base. `factors` may
// be empty: A reads the input as it is. Adapters with magnitudes take none. Errors: InvalidArgument
// ids out of range, shapes that do not agree, a LoRA module the base lacks,
//                          factors for a module with a magnitude
//         Internal, ResourceExhausted  from LibTorch
absl::StatusOr<at::Tensor> ReferenceHidden(const LlamaWeights& weights, const LoraTensors* lora,
                                           const TokenBatch& batch,
                                           const AdapterInputFactors& factors = {});

// The head [V, D] that `lora` (may be null) runs with.
at::Tensor EffectiveHead(const LlamaWeights& weights, const LoraTensors* lora);
// Logits [N, V] of hidden rows [N, D] (gather the rows that matter first).
absl::StatusOr<at::Tensor> ReferenceHead(const LlamaWeights& weights, const LoraTensors* lora,
                                         const at::Tensor& hidden_ND);

// ReferenceHead over every position: [B, T, V].
absl::StatusOr<at::Tensor> ReferenceLogits(const LlamaWeights& weights, const LoraTensors* lora,
                                           const TokenBatch& batch);

}  // namespace evolora
