#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "evolora/model/llama_config.h"
#include "evolora/model/llama_weights.h"
#include "evolora/trainers/recipe.h"

namespace evolora {

// One linear layer that a recipe adapts.
struct PlannedModule {
  std::string path;
  int64_t in_features = 0;
  int64_t out_features = 0;
  int64_t rank = 0;
  double scale = 1;  // alpha / rank, or alpha / sqrt(rank)
};

// The modules in LinearModulePaths order. InvalidArgument: a target, exclusion or pattern key that
// matches nothing, two pattern keys that disagree on a module, a rank above a layer's smaller side,
// nothing to adapt; Unimplemented: a pattern that is not an RE2 regex.
absl::StatusOr<std::vector<PlannedModule>> PlanModules(const LlamaConfig& config,
                                                       const LoraRecipe& recipe);

// The modules that recipe.modules_to_save means, as in ReplaceableModules. InvalidArgument: an
// entry that matches nothing, or a linear layer of the decoder.
absl::StatusOr<std::vector<NamedShape>> PlanSavedModules(const LlamaConfig& config,
                                                         const LoraRecipe& recipe);

}  // namespace evolora
