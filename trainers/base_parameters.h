#pragma once

#include <cstdint>
#include <string>
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
  // The values as they are now, on the CPU, without gradients; sharing their memory if they are
  // there.
  LlamaWeights Values() const;
  // The first so many values are those of matrices.
  int64_t num_decayed() const { return num_decayed_; }
  // Moves everything to a device (open: open_device.h). Earlier weights() stay behind.
  void MoveTo(c10::Device device);

  // Matrices decay by recipe.weight_decay, norms and biases do not: as Transformers' Trainer.
  std::vector<ParameterGroup> Groups(const LoraRecipe& recipe) const;

 private:
  struct Slot {
    std::string name;
    std::vector<int64_t> shape;
    int64_t offset;
    int64_t count;
  };
  static at::Tensor PartOf(const at::Tensor& flat, const Slot& slot);
  void MakeLeaves();

  LlamaConfig config_;
  std::vector<Slot> slots_;
  int64_t num_decayed_ = 0;
  LlamaWeights weights_;
};

}  // namespace evolora
