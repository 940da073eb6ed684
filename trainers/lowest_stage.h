#pragma once

#include <array>
#include <compare>
#include <cstdint>

#include "absl/types/span.h"

namespace evolora {

// The four places of a decoder layer that can carry adapters, in the order of the forward pass.
enum class Stage { kQkv, kOut, kGateUp, kDown };
constexpr int64_t kStagesPerLayer = 4;

// What is trained in one decoder layer.
struct TrainedParts {
  std::array<bool, kStagesPerLayer> stages = {};  // by Stage
  bool input_norm = false;
  bool head_norms = false;  // of q and k
  bool post_norm = false;   // between attention and MLP
};

// Where a backward pass may end: nothing below needs a gradient.
struct Lowest {
  int64_t layer = 0;
  bool inside = true;  // false: at the layer's input
  Stage stage = Stage::kQkv;
  friend auto operator<=>(const Lowest&, const Lowest&) = default;  // NOLINT(*-use-nullptr)
};

// Of these layers, the first one first. Nothing is trained in them: the layer behind the last.
Lowest LowestTrained(absl::Span<const TrainedParts> layers);

}  // namespace evolora
