#include "lowest_stage.h"

#include <optional>

namespace evolora {
namespace {

std::optional<Stage> LowestOf(const TrainedParts& parts) {
  if (parts.head_norms) return Stage::kQkv;
  for (const Stage stage : {Stage::kQkv, Stage::kOut, Stage::kGateUp, Stage::kDown}) {
    // The norm lies between the two.
    if (stage == Stage::kGateUp && parts.post_norm) return Stage::kOut;
    if (parts.stages[static_cast<size_t>(stage)]) return stage;
  }
  return std::nullopt;
}

}  // namespace

Lowest LowestTrained(absl::Span<const TrainedParts> layers) {
  for (size_t i = 0; i < layers.size(); ++i) {
    const auto layer = static_cast<int64_t>(i);
    if (layers[i].input_norm) return {.layer = layer, .inside = false};
    const std::optional<Stage> stage = LowestOf(layers[i]);
    if (stage.has_value()) return {.layer = layer, .stage = *stage};
  }
  return {.layer = static_cast<int64_t>(layers.size())};
}

}  // namespace evolora
