#include "step_cost.h"

#include <algorithm>

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

int64_t MeanStepTokens(absl::Span<const TrainingRow> rows, int64_t rows_per_step) {
  int64_t tokens = 0;
  for (const TrainingRow& row : rows) {
    tokens += static_cast<int64_t>(row.ids.size() + row.counterpart.ids.size());
  }
  const auto num_rows = static_cast<int64_t>(rows.size());
  return num_rows == 0 ? 0 : tokens * std::min(num_rows, rows_per_step) / num_rows;
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
