#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "evolora/adapters/lora_adapter.h"
#include "evolora/model/llama_weights.h"
#include "evolora/trainers/recipe.h"

namespace evolora {

// A start that is taken out of the base: base.W + scale * B A is the W it was made from (to fp32),
// for each adapted module.
struct ResidualStart {
  std::shared_ptr<const LlamaWeights> base;  // shares what is not adapted
  LoraAdapter adapter;
};

// The start by recipe.init_lora_weights, in PEFT's formulas; r and s: the module's rank and scale.
//   pissa  B = U_r sqrt(S_r / s), A = sqrt(S_r / s) V_r^T, the r largest singular values of
//          W = U S V^T
//   olora  B = Q_r, A = R_r, the first r columns and rows of W = Q R
// Singular vectors are unique but for their signs, which cancel in B A and in training.
// Errors: as PlanModules. REQUIRES: init_lora_weights is not kKaiming.
// Cost: one full decomposition of each adapted matrix; the adapted matrices once more in memory.
absl::StatusOr<ResidualStart> MakeResidualStart(const LlamaWeights& base, const LoraRecipe& recipe);

// What training added, as plain LoRA for the untouched base: scale * (B A - B0 A0) with [A; A0] and
// [B, -B0], twice the rank. REQUIRES: `start` and `trained` have the same modules.
LoraAdapter TrainedSince(const LoraAdapter& start, const LoraAdapter& trained);

}  // namespace evolora
