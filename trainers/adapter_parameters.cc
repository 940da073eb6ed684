#include "adapter_parameters.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "evolora/core/random.h"
#include "evolora/core/status_macros.h"

namespace evolora {

absl::StatusOr<AdapterParameters> AdapterParameters::Create(const LlamaWeights& base,
                                                            const LoraRecipe& recipe,
                                                            const LoraAdapter* init) {
  AdapterParameters parameters;
  ASSIGN_OR_RETURN(std::vector<PlannedModule> modules, PlanModules(base.config, recipe));
  int64_t offset = 0;
  for (PlannedModule& module : modules) {
    parameters.slots_.push_back({std::move(module), recipe.use_dora, offset});
    offset = parameters.slots_.back().end();
  }
  ASSIGN_OR_RETURN(std::vector<NamedShape> saved, PlanSavedModules(base.config, recipe));
  for (NamedShape& module : saved) {
    parameters.saved_slots_.push_back({std::move(module.name), std::move(module.shape), offset});
    offset += parameters.saved_slots_.back().size();
  }
  parameters.AllocateBuffers(offset);
  parameters.MakeLeaves();
  if (init != nullptr) {
    RETURN_IF_ERROR(parameters.InitFrom(*init));
  } else {
    parameters.InitFresh(recipe.seed);
  }
  RETURN_IF_ERROR(parameters.InitSaved(base, init));
  if (recipe.use_dora && (init == nullptr || !HasMagnitudes(*init))) {
    RETURN_IF_ERROR(parameters.InitMagnitudes(base));
  }
  return parameters;
}

int64_t AdapterParameters::SavedSlot::size() const {
  return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
}

at::Tensor AdapterParameters::PartSaved(const at::Tensor& flat, const SavedSlot& slot) const {
  return flat.narrow(0, slot.offset, slot.size()).view(slot.shape);
}

at::Tensor AdapterParameters::PartA(const at::Tensor& flat, const Slot& slot) const {
  const PlannedModule& m = slot.module;
  return flat.narrow(0, slot.offset, m.rank * m.in_features).view({m.rank, m.in_features});
}

at::Tensor AdapterParameters::PartB(const at::Tensor& flat, const Slot& slot) const {
  const PlannedModule& m = slot.module;
  return flat.narrow(0, slot.offset_b(), m.out_features * m.rank).view({m.out_features, m.rank});
}

at::Tensor AdapterParameters::PartMagnitude(const at::Tensor& flat, const Slot& slot) const {
  return flat.narrow(0, slot.offset_magnitude(), slot.module.out_features);
}

std::vector<at::Tensor> AdapterParameters::PartsA(const at::Tensor& flat) const {
  std::vector<at::Tensor> parts;
  for (const Slot& slot : slots_) parts.push_back(PartA(flat, slot));
  return parts;
}

std::vector<at::Tensor> AdapterParameters::PartsB(const at::Tensor& flat) const {
  std::vector<at::Tensor> parts;
  for (const Slot& slot : slots_) {
    parts.push_back(flat.narrow(0, slot.offset_b(), slot.end() - slot.offset_b()));
  }
  return parts;
}

std::vector<ParameterGroup> AdapterParameters::Groups(const LoraRecipe& recipe) const {
  std::vector<ParameterGroup> groups;
  if (recipe.lora_plus_ratio == 1) {
    groups.push_back(GroupOfRange(*this, 0, value.numel()));
  } else {
    groups.push_back({PartsA(value), PartsA(gradient), PartsA(moment1), PartsA(moment2)});
    groups.push_back({PartsB(value), PartsB(gradient), PartsB(moment1), PartsB(moment2),
                      recipe.lora_plus_ratio});
  }
  for (ParameterGroup& group : groups) group.weight_decay = recipe.weight_decay;
  return groups;
}

void AdapterParameters::MoveTo(at::Device device) {
  MoveBuffers(device);
  MakeLeaves();
}

void AdapterParameters::MakeLeaves() {
  for (const Slot& slot : slots_) {
    LoraTensor& module = lora_.modules[slot.module.path];
    module = {LeafOver(PartA(value, slot), PartA(gradient, slot)),
              LeafOver(PartB(value, slot), PartB(gradient, slot)), slot.module.scale};
    if (!slot.has_magnitude) continue;
    module.magnitude = LeafOver(PartMagnitude(value, slot), PartMagnitude(gradient, slot));
  }
  for (const SavedSlot& slot : saved_slots_) {
    lora_.saved[slot.path] = LeafOver(PartSaved(value, slot), PartSaved(gradient, slot));
  }
}

void AdapterParameters::InitFresh(uint64_t seed) {
  float* data = value.mutable_data_ptr<float>();
  for (const Slot& slot : slots_) {
    const PlannedModule& m = slot.module;
    Random random(DeriveSeed(seed, m.path));
    const double bound = 1.0 / std::sqrt(static_cast<double>(m.in_features));
    for (int64_t i = 0; i < m.rank * m.in_features; ++i) {
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
  for (const Slot& slot : slots_) {
    const PlannedModule& m = slot.module;
    const auto module = std::find_if(init.modules.begin(), init.modules.end(),
                                     [&](const LoraModule& other) { return other.path == m.path; });
    if (module == init.modules.end() || module->rank != m.rank ||
        module->in_features != m.in_features || module->out_features != m.out_features) {
      return absl::InvalidArgumentError(absl::StrCat("initial adapter: no module ", m.path,
                                                     " of rank ", m.rank, ", ", m.out_features,
                                                     " x ", m.in_features));
    }
    if (!module->magnitude.empty() && !slot.has_magnitude) {
      return absl::InvalidArgumentError(
          absl::StrCat("initial adapter: ", m.path, " has a magnitude, recipe.use_dora is false"));
    }
    CopyModule(*module, slot);
  }
  return absl::OkStatus();
}

void AdapterParameters::CopyModule(const LoraModule& from, const Slot& slot) {
  float* data = value.mutable_data_ptr<float>();
  // The recipe's scale applies from here on; a different one in the file is folded into B.
  const float fold = static_cast<float>(from.scale / slot.module.scale);
  std::copy(from.a.begin(), from.a.end(), data + slot.offset);
  std::transform(from.b.begin(), from.b.end(), data + slot.offset_b(),
                 [fold](float b) { return b * fold; });
  std::copy(from.magnitude.begin(), from.magnitude.end(), data + slot.offset_magnitude());
}

absl::Status AdapterParameters::InitMagnitudes(const LlamaWeights& base) {
  for (const Slot& slot : slots_) {
    const std::string& path = slot.module.path;
    const at::Tensor norms = AdaptedRowNorms(FindLinear(base, path), lora_.modules.at(path));
    const float* from = norms.const_data_ptr<float>();
    const auto* zero = std::find(from, from + norms.numel(), 0.0f);
    if (zero != from + norms.numel()) {
      return absl::InvalidArgumentError(absl::StrCat("recipe.use_dora: row ", zero - from, " of ",
                                                     path, " is zero and has no direction"));
    }
    std::copy_n(from, norms.numel(), value.mutable_data_ptr<float>() + slot.offset_magnitude());
  }
  return absl::OkStatus();
}

absl::Status AdapterParameters::InitSaved(const LlamaWeights& base, const LoraAdapter* init) {
  float* data = value.mutable_data_ptr<float>();
  for (const SavedSlot& slot : saved_slots_) {
    const at::Tensor own = FindReplaceable(base, slot.path);
    std::copy_n(own.const_data_ptr<float>(), slot.size(), data + slot.offset);
  }
  if (init == nullptr) return absl::OkStatus();
  for (const SavedModule& module : init->saved_modules) {
    const auto slot =
        std::find_if(saved_slots_.begin(), saved_slots_.end(),
                     [&](const SavedSlot& other) { return other.path == module.path; });
    if (slot == saved_slots_.end() || slot->shape != module.shape) {
      return absl::InvalidArgumentError(absl::StrCat(
          "initial adapter: it saves ", module.path,
          " as a whole; recipe.modules_to_save does not, or the base has another shape"));
    }
    std::copy(module.weight.begin(), module.weight.end(), data + slot->offset);
  }
  return absl::OkStatus();
}

LoraAdapter AdapterParameters::ToAdapter(const std::string& base_name) const {
  LoraAdapter adapter;
  adapter.base_name = base_name;
  const at::Tensor values = value.cpu();
  const float* data = values.const_data_ptr<float>();
  for (const Slot& slot : slots_) {
    const PlannedModule& m = slot.module;
    const float* a = data + slot.offset;
    const float* b = data + slot.offset_b();
    const float* magnitude = data + slot.offset_magnitude();
    adapter.modules.push_back({.path = m.path,
                               .rank = m.rank,
                               .in_features = m.in_features,
                               .out_features = m.out_features,
                               .scale = m.scale,
                               .a = {a, b},
                               .b = {b, magnitude},
                               .magnitude = {magnitude, data + slot.end()}});
  }
  std::sort(adapter.modules.begin(), adapter.modules.end(),
            [](const LoraModule& x, const LoraModule& y) { return x.path < y.path; });
  for (const SavedSlot& slot : saved_slots_) {
    const float* weight = data + slot.offset;
    adapter.saved_modules.push_back({slot.path, slot.shape, {weight, weight + slot.size()}});
  }
  return adapter;
}

}  // namespace evolora
