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
#include "flat_parameters.h"

namespace evolora {

// The trainable parameters of one adapter in flat buffers: all A and B matrices and magnitudes in
// LinearModulePaths order, A before B before the magnitude, then the modules that are saved as a
// whole, by path. The tensors of `lora()` are leaves over the value buffer whose gradients
// accumulate in `gradient`.
class AdapterParameters : public FlatParameters {
 public:
  // Fresh (kaiming A, zero B from recipe.seed) or from `init` (paths, ranks and shapes must fit the
  // recipe's targets, magnitudes need use_dora, saved modules modules_to_save: InvalidArgument
  // names the module). Saved modules that it does not bring start as the base's. Magnitudes that
  // `init` does not bring are the norms of the rows of W + scale B A; InvalidArgument names a row
  // whose norm is zero.
  static absl::StatusOr<AdapterParameters> Create(const LlamaWeights& base,
                                                  const LoraRecipe& recipe,
                                                  const LoraAdapter* init);

  const LoraTensors& lora() const { return lora_; }
  // B and magnitudes learn at recipe.lora_plus_ratio times the rate.
  std::vector<ParameterGroup> Groups(const LoraRecipe& recipe) const;

  // The A matrices of one of the flat buffers as views, and what else a module has, flat.
  std::vector<at::Tensor> PartsA(const at::Tensor& flat) const;
  std::vector<at::Tensor> PartsB(const at::Tensor& flat) const;  // B and magnitude

  // Moves everything to a device (open: open_device.h). Earlier tensors of lora() stay behind.
  void MoveTo(at::Device device);

  LoraAdapter ToAdapter(const std::string& base_name) const;

 private:
  struct Slot {
    PlannedModule module;
    bool has_magnitude;
    int64_t offset;  // of A in the flat buffers; B and the magnitude follow
    int64_t offset_b() const { return offset + module.rank * module.in_features; }
    int64_t offset_magnitude() const { return offset_b() + module.out_features * module.rank; }
    int64_t end() const { return offset_magnitude() + (has_magnitude ? module.out_features : 0); }
  };
  struct SavedSlot {
    std::string path;
    std::vector<int64_t> shape;
    int64_t offset;
    int64_t size() const;
  };
  void MakeLeaves();
  void InitFresh(uint64_t seed);
  absl::Status InitFrom(const LoraAdapter& init);
  void CopyModule(const LoraModule& from, const Slot& slot);
  absl::Status InitMagnitudes(const LlamaWeights& base);
  absl::Status InitSaved(const LlamaWeights& base, const LoraAdapter* init);
  at::Tensor PartSaved(const at::Tensor& flat, const SavedSlot& slot) const;
  at::Tensor PartA(const at::Tensor& flat, const Slot& slot) const;
  at::Tensor PartB(const at::Tensor& flat, const Slot& slot) const;
  at::Tensor PartMagnitude(const at::Tensor& flat, const Slot& slot) const;

  std::vector<Slot> slots_;
  std::vector<SavedSlot> saved_slots_;
  LoraTensors lora_;
};

}  // namespace evolora
