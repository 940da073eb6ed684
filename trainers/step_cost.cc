#include "step_cost.h"

namespace evolora {

StepSize SizeOfStep(absl::Span<const TrainingRow> rows, absl::Span<const int64_t> step_rows,
                    ObjectiveKind objective) {
  StepSize size;
  for (const int64_t i : step_rows) {
    const TrainingRow& row = rows[static_cast<size_t>(i)];
    size.tokens += static_cast<int64_t>(row.ids.size());
    size.labelled_tokens += NumTargets(row);
    if (objective != ObjectiveKind::kDpo) continue;
    size.tokens += static_cast<int64_t>(row.counterpart.ids.size());
    size.labelled_tokens += NumTargets(row.counterpart.labels);
  }
  return size;
}

double StepFlops(const LlamaConfig& config, const LoraRecipe& recipe, const StepSize& size) {
  const int64_t mean_context = size.tokens / (2 * recipe.rows_per_step);
  const auto tokens = static_cast<double>(size.tokens);
  const double head = HeadFlopsPerRow(config) * static_cast<double>(size.labelled_tokens);
  const double flops = 2 * LayerFlopsPerToken(config, mean_context) * tokens + 2 * head;
  if (recipe.method != TrainingMethod::kFull) return flops;
  return flops + LayerFlopsPerToken(config, /*context=*/0) * tokens + head;
}

}  // namespace evolora
