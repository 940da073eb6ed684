#include "adapter_parameters.h"

#include <algorithm>
#include <cmath>
#include <set>

#include "ATen/ops/empty.h"
#include "ATen/ops/zeros.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "evolora/core/random.h"
#include "evolora/core/status_macros.h"

namespace evolora {
namespace {

// A target names a module when it is its path or a suffix of it at a dot, as in PEFT.
bool NamesModule(const std::string& target, const std::string& path) {
  return target == path || absl::EndsWith(path, absl::StrCat(".", target));
}

bool IsTargeted(const LoraRecipe& recipe, const std::string& path, std::set<std::string>& used) {
  if (recipe.target_modules.empty()) return true;
  bool targeted = false;
  for (const std::string& target : recipe.target_modules) {
    if (!NamesModule(target, path)) continue;
    used.insert(target);
    targeted = true;
  }
  return targeted;
}

}  // namespace

absl::StatusOr<std::vector<AdapterParameters::Slot>> AdapterParameters::PlanSlots(
    const LlamaWeights& base, const LoraRecipe& recipe) {
  std::vector<Slot> slots;
  std::set<std::string> used;
  int64_t offset = 0;
  for (const std::string& path : LinearModulePaths(base.config)) {
    if (!IsTargeted(recipe, path, used)) continue;
    const at::Tensor weight = FindLinear(base, path);
    const int64_t out_features = weight.size(0), in_features = weight.size(1);
    if (recipe.rank > std::min(in_features, out_features)) {
      return absl::InvalidArgumentError(absl::StrCat("recipe.rank ", recipe.rank, " exceeds layer ",
                                                     path, " of ", out_features, " x ", in_features));
    }
    slots.push_back({path, in_features, out_features, offset});
    offset += recipe.rank * (in_features + out_features);
  }
  for (const std::string& target : recipe.target_modules) {
    if (used.count(target) != 0) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("recipe.target_modules: '", target, "' matches no linear layer"));
  }
  return slots;
}

absl::StatusOr<AdapterParameters> AdapterParameters::Create(const LlamaWeights& base,
                                                            const LoraRecipe& recipe,
                                                            const LoraAdapter* init) {
  AdapterParameters parameters;
  parameters.rank_ = recipe.rank;
  parameters.scale_ = recipe.alpha / static_cast<double>(recipe.rank);
  ASSIGN_OR_RETURN(parameters.slots_, PlanSlots(base, recipe));
  parameters.Allocate();
  if (init != nullptr) {
    RETURN_IF_ERROR(parameters.InitFrom(*init));
  } else {
    parameters.InitFresh(recipe.seed);
  }
  return parameters;
}

at::Tensor AdapterParameters::PartA(const at::Tensor& flat, const Slot& slot) const {
  return flat.narrow(0, slot.offset, rank_ * slot.in_features).view({rank_, slot.in_features});
}

at::Tensor AdapterParameters::PartB(const at::Tensor& flat, const Slot& slot) const {
  return flat.narrow(0, slot.offset + rank_ * slot.in_features, slot.out_features * rank_)
      .view({slot.out_features, rank_});
}

void AdapterParameters::Allocate() {
  int64_t total = 0;
  for (const Slot& slot : slots_) total += rank_ * (slot.in_features + slot.out_features);
  for (at::Tensor* buffer : {&value, &gradient, &moment1, &moment2}) {
    *buffer = at::zeros({total}, at::kFloat);
  }
  const auto leaf = [](const at::Tensor& value_view, const at::Tensor& gradient_view) {
    at::Tensor tensor = value_view.detach();
    tensor.set_requires_grad(true);
    tensor.mutable_grad() = gradient_view;
    return tensor;
  };
  for (const Slot& slot : slots_) {
    lora_.modules[slot.path] = {leaf(PartA(value, slot), PartA(gradient, slot)),
                                leaf(PartB(value, slot), PartB(gradient, slot)), scale_};
  }
}

void AdapterParameters::InitFresh(uint64_t seed) {
  float* data = value.mutable_data_ptr<float>();
  for (const Slot& slot : slots_) {
    Random random(DeriveSeed(seed, slot.path));
    const double bound = 1.0 / std::sqrt(static_cast<double>(slot.in_features));
    for (int64_t i = 0; i < rank_ * slot.in_features; ++i) {
      data[slot.offset + i] = static_cast<float>((2.0 * random.NextDouble() - 1.0) * bound);
    }
  }
}

absl::Status AdapterParameters::InitFrom(const LoraAdapter& init) {
  RETURN_IF_ERROR(ValidateLoraAdapter(init));
  if (init.modules.size() != slots_.size()) {
    return absl::InvalidArgumentError(absl::StrCat("initial adapter has ", init.modules.size(),
                                                   " modules, the recipe targets ", slots_.size()));
  }
  float* data = value.mutable_data_ptr<float>();
  for (const Slot& slot : slots_) {
    const auto module = std::find_if(init.modules.begin(), init.modules.end(),
                                     [&](const LoraModule& m) { return m.path == slot.path; });
    if (module == init.modules.end() || module->rank != rank_ ||
        module->in_features != slot.in_features || module->out_features != slot.out_features) {
      return absl::InvalidArgumentError(absl::StrCat("initial adapter: no module ", slot.path,
                                                     " of rank ", rank_, ", ", slot.out_features,
                                                     " x ", slot.in_features));
    }
    // The recipe's scale applies from here on; a different one in the file is folded into B.
    const float fold = static_cast<float>(module->scale / scale_);
    float* a = data + slot.offset;
    std::copy(module->a.begin(), module->a.end(), a);
    std::transform(module->b.begin(), module->b.end(), a + module->a.size(),
                   [fold](float b) { return b * fold; });
  }
  return absl::OkStatus();
}

LoraAdapter AdapterParameters::ToAdapter(const std::string& base_name) const {
  LoraAdapter adapter;
  adapter.base_name = base_name;
  const float* data = value.const_data_ptr<float>();
  for (const Slot& slot : slots_) {
    const float* a = data + slot.offset;
    const float* b = a + rank_ * slot.in_features;
    adapter.modules.push_back({.path = slot.path,
                               .rank = rank_,
                               .in_features = slot.in_features,
                               .out_features = slot.out_features,
                               .scale = scale_,
                               .a = {a, b},
                               .b = {b, b + slot.out_features * rank_}});
  }
  std::sort(adapter.modules.begin(), adapter.modules.end(),
            [](const LoraModule& x, const LoraModule& y) { return x.path < y.path; });
  return adapter;
}

}  // namespace evolora
