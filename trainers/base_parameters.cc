#include "base_parameters.h"

#include <algorithm>
#include <map>
#include <string>

namespace evolora {

BaseParameters::BaseParameters(const LlamaWeights& base) {
  std::vector<NamedTensor> tensors = NamedTensors(base);
  const auto vectors =
      std::stable_partition(tensors.begin(), tensors.end(),
                            [](const NamedTensor& named) { return named.tensor.dim() == 2; });
  int64_t total = 0;
  for (auto named = tensors.begin(); named != tensors.end(); ++named) {
    if (named == vectors) num_decayed_ = total;
    total += named->tensor.numel();
  }
  AllocateBuffers(total);
  std::map<std::string, at::Tensor> leaves;
  int64_t offset = 0;
  for (const auto& [name, tensor] : tensors) {
    const int64_t count = tensor.numel();
    const auto part = [&](const at::Tensor& flat) {
      return flat.narrow(0, offset, count).view(tensor.sizes());
    };
    part(value).copy_(tensor);
    leaves[name] = LeafOver(part(value), part(gradient));
    offset += count;
  }
  weights_ = WithTensors(base.config, leaves);
}

LlamaWeights BaseParameters::Values() const {
  std::map<std::string, at::Tensor> values;
  for (const auto& [name, tensor] : NamedTensors(weights_)) values[name] = tensor.detach();
  return WithTensors(weights_.config, values);
}

std::vector<ParameterGroup> BaseParameters::Groups(const LoraRecipe& recipe) const {
  ParameterGroup matrices = GroupOfRange(*this, 0, num_decayed_);
  matrices.weight_decay = recipe.weight_decay;
  return {std::move(matrices), GroupOfRange(*this, num_decayed_, value.numel() - num_decayed_)};
}

}  // namespace evolora
