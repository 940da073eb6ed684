#pragma once

#include <string>
#include <vector>

#include "ATen/core/Tensor.h"
#include "absl/status/statusor.h"
#include "adapter_plan.h"
#include "evolora/adapters/lora_adapter.h"
#include "evolora/model/llama_weights.h"
#include "evolora/model/lora_tensors.h"
#include "evolora/trainers/recipe.h"

namespace evolora {

// The trainable parameters of one adapter in flat buffers: values, gradients and both Adam moments,
// each one contiguous fp32 vector of all A and B matrices in LinearModulePaths order, A before B.
// The tensors of `lora()` are leaves over the value buffer whose gradients accumulate in
// `gradient`.
class AdapterParameters {
 public:
  // Fresh (kaiming A, zero B from recipe.seed) or from `init` (paths, ranks and shapes must fit the
  // recipe's targets: InvalidArgument names the module).
  static absl::StatusOr<AdapterParameters> Create(const LlamaWeights& base,
                                                  const LoraRecipe& recipe,
                                                  const LoraAdapter* init);

  const LoraTensors& lora() const { return lora_; }
  at::Tensor value;     // [P]
  at::Tensor gradient;  // [P]
  at::Tensor moment1;   // [P]
  at::Tensor moment2;   // [P]

  // The A (or B) matrices of one of the flat buffers, as views.
  std::vector<at::Tensor> PartsA(const at::Tensor& flat) const;
  std::vector<at::Tensor> PartsB(const at::Tensor& flat) const;

  // Moves everything to a device (open: open_device.h). Earlier tensors of lora() stay behind.
  void MoveTo(at::Device device);

  LoraAdapter ToAdapter(const std::string& base_name) const;

 private:
  struct Slot {
    PlannedModule module;
    int64_t offset;  // of A in the flat buffers; B follows
  };
  void Allocate(int64_t total);
  void MakeLeaves();
  void InitFresh(uint64_t seed);
  absl::Status InitFrom(const LoraAdapter& init);
  at::Tensor PartA(const at::Tensor& flat, const Slot& slot) const;
  at::Tensor PartB(const at::Tensor& flat, const Slot& slot) const;

  std::vector<Slot> slots_;
  LoraTensors lora_;
};

}  // namespace evolora
