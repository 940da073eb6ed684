#include "base_parameters.h"

#include <algorithm>
#include <map>
#include <string>

namespace evolora {

BaseParameters::BaseParameters(const LlamaWeights& base) : config_(base.config) {
  std::vector<NamedTensor> tensors = NamedTensors(base);
  const auto vectors =
      std::stable_partition(tensors.begin(), tensors.end(),
                            [](const NamedTensor& named) { return named.tensor.dim() == 2; });
  int64_t total = 0;
  for (auto named = tensors.begin(); named != tensors.end(); ++named) {
    if (named == vectors) num_decayed_ = total;
    slots_.push_back({named->name, named->tensor.sizes().vec(), total, named->tensor.numel()});
    total += named->tensor.numel();
  }
  AllocateBuffers(total);
  for (size_t i = 0; i < slots_.size(); ++i) PartOf(value, slots_[i]).copy_(tensors[i].tensor);
  MakeLeaves();
}

at::Tensor BaseParameters::PartOf(const at::Tensor& flat, const Slot& slot) {
  return flat.narrow(0, slot.offset, slot.count).view(slot.shape);
}

void BaseParameters::MakeLeaves() {
  std::map<std::string, at::Tensor> leaves;
  for (const Slot& slot : slots_) {
    leaves[slot.name] = LeafOver(PartOf(value, slot), PartOf(gradient, slot));
  }
  weights_ = WithTensors(config_, leaves);
}

void BaseParameters::MoveTo(c10::Device device) {
  MoveBuffers(device);
  MakeLeaves();
}

LlamaWeights BaseParameters::Values() const {
  std::map<std::string, at::Tensor> values;
  for (const Slot& slot : slots_) values[slot.name] = PartOf(value, slot).to(at::kCPU);
  return WithTensors(config_, values);
}

std::vector<ParameterGroup> BaseParameters::Groups(const LoraRecipe& recipe) const {
  ParameterGroup matrices = GroupOfRange(*this, 0, num_decayed_);
  matrices.weight_decay = recipe.weight_decay;
  return {std::move(matrices), GroupOfRange(*this, num_decayed_, value.numel() - num_decayed_)};
}

}  // namespace evolora
