#pragma once

#include <cstdint>
#include <vector>

#include "evolora/model/llama_weights.h"
#include "evolora/trainers/recipe.h"
#include "flat_parameters.h"

namespace evolora {

// All weights of a base in flat buffers: the matrices in the order of TensorShapes, then the norms
// and biases. A tied head is the embedding.
class BaseParameters : public FlatParameters {
 public:
  // With the values of `base`. REQUIRES: !base.compact.
  explicit BaseParameters(const LlamaWeights& base);

  // Leaves over `value` whose gradients accumulate in `gradient`.
  const LlamaWeights& weights() const { return weights_; }
  // The values as they are now, sharing their memory, without gradients.
  LlamaWeights Values() const;

  // Matrices decay by recipe.weight_decay, norms and biases do not: as Transformers' Trainer.
  std::vector<ParameterGroup> Groups(const LoraRecipe& recipe) const;

 private:
  int64_t num_decayed_ = 0;
  LlamaWeights weights_;
};

}  // namespace evolora
