#pragma once

#include <string>
#include <vector>

#include "ATen/core/Tensor.h"
#include "absl/status/statusor.h"
#include "evolora/adapters/lora_adapter.h"
#include "evolora/model/llama_weights.h"
#include "evolora/model/lora_tensors.h"
#include "evolora/trainers/recipe.h"

namespace evolora {

// The trainable parameters of one adapter in flat buffers: values, gradients and both Adam moments,
// each one contiguous fp32 vector of all A and B matrices in LinearModulePaths order, A before B.
// The tensors of `lora()` are leaves over the value buffer whose gradients accumulate in `gradient`.
class AdapterParameters {
 public:
  // Fresh (kaiming A, zero B from recipe.seed) or from `init` (paths, ranks and shapes must fit the
  // recipe's targets: InvalidArgument names the module).
  static absl::StatusOr<AdapterParameters> Create(const LlamaWeights& base, const LoraRecipe& recipe,
                                                  const LoraAdapter* init);

  const LoraTensors& lora() const { return lora_; }
  at::Tensor value;     // [P]
  at::Tensor gradient;  // [P]
  at::Tensor moment1;   // [P]
  at::Tensor moment2;   // [P]

  LoraAdapter ToAdapter(const std::string& base_name) const;

 private:
  struct Slot {
    std::string path;
    int64_t in_features;
    int64_t out_features;
    int64_t offset;  // of A in the flat buffers; B follows
  };
  static absl::StatusOr<std::vector<Slot>> PlanSlots(const LlamaWeights& base,
                                                     const LoraRecipe& recipe);
  void Allocate();
  void InitFresh(uint64_t seed);
  absl::Status InitFrom(const LoraAdapter& init);
  at::Tensor PartA(const at::Tensor& flat, const Slot& slot) const;
  at::Tensor PartB(const at::Tensor& flat, const Slot& slot) const;

  std::vector<Slot> slots_;
  int64_t rank_ = 0;
  double scale_ = 1;
  LoraTensors lora_;
};

}  // namespace evolora
