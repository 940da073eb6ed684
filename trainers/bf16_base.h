#pragma once

#include "evolora/model/llama_weights.h"
#include "evolora/model/products.h"
#include "evolora/trainers/recipe.h"

namespace evolora {

// What the fast path makes of a recipe's precision.

// The factors of its products: rounded in both bf16 regimes.
Factors FactorsOf(const LoraRecipe& recipe);

// The base of bf16 numbers. Matrices that are in few bits already are rounded as they are read.
LlamaWeights Bf16Base(const LlamaWeights& base);

}  // namespace evolora
