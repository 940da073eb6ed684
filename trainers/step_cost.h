#pragma once

#include <cstdint>

#include "absl/types/span.h"
#include "evolora/model/llama_config.h"
#include "evolora/trainers/recipe.h"
#include "evolora/trainers/training_data.h"

namespace evolora {

// What one optimiser step trains on, counted as its report counts it.
struct StepSize {
  int64_t tokens = 0;           // of the step's rows, shared prefixes once for each row
  int64_t labelled_tokens = 0;  // targets: the first token of a row is none
};
// Of "dpo" both answers count.
StepSize SizeOfStep(absl::Span<const TrainingRow> rows, absl::Span<const int64_t> step_rows,
                    ObjectiveKind objective = ObjectiveKind::kSft);

// Tokens of a mean step, counterparts included; 0 without rows.
int64_t MeanStepTokens(absl::Span<const TrainingRow> rows, int64_t rows_per_step);

// FLOPs of one step, from shapes: forward, and the gradient of the activations, which costs the
// same again; with the method kFull that of the weights, which costs the products with them a third
// time. A token attends to half of a mean row.
double StepFlops(const LlamaConfig& config, const LoraRecipe& recipe, const StepSize& size);

}  // namespace evolora
