#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "evolora/adapters/lora_adapter.h"
#include "evolora/core/tokenizer.h"
#include "evolora/model/compact_matrix.h"
#include "evolora/model/llama_weights.h"

namespace evolora::testing {

// A small config with odd sizes: head_dim != hidden / heads, grouped heads, 37 ids.
LlamaConfig SmallConfig();

// Normally distributed weights of a fixed seed that give logits of unit scale.
std::shared_ptr<const LlamaWeights> RandomWeights(const LlamaConfig& config, uint64_t seed);

// An adapter on every `stride`-th linear layer with non-zero A and B.
LoraAdapter RandomAdapter(const LlamaConfig& config, int64_t rank, uint64_t seed,
                          size_t stride = 1);

// The same with magnitudes between 0.5 and 1.5: a DoRA.
LoraAdapter RandomDora(const LlamaConfig& config, int64_t rank, uint64_t seed, size_t stride = 1);

inline constexpr BlockForm kAllBlockForms[] = {BlockForm::kBf16, BlockForm::kF16,
                                               BlockForm::kInt8, BlockForm::kInt8Low,
                                               BlockForm::kQ4,   BlockForm::kQ4Float};
// `weight`, fp32 [out, in], rounded to any form.
CompactMatrix Stored(BlockForm form, const at::Tensor& weight);
// `weights` with every matrix rounded to it.
LlamaWeights InFewBits(const LlamaWeights& weights, BlockForm form);

std::vector<TokenId> RandomIds(const LlamaConfig& config, int64_t count, uint64_t seed);

}  // namespace evolora::testing
