#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/types/span.h"
#include "fast_model.h"
#include "gradient_path.h"

namespace evolora {

// For bases so small that threads which meet at the end of every product wait longer than they
// compute: each thread takes whole micro-batches through a model of its own.

// Whether the micro-batches of a run go side by side: a small base, of which no weight is trained,
// and a loss that allows it. A function of the job alone, as the cut into micro-batches is, so that
// neither the number of threads nor jobs beside it change a run's bits.
bool RunsSideBySide(const LlamaConfig& config, const LoraRecipe& recipe, const Loss& loss);

// The fast path's micro-batches: those of PackedMicroBatches, finer where they go side by side and
// few tokens more are computed for it. Rows that draw dropout share no prefixes.
std::vector<std::vector<int64_t>> FastMicroBatches(absl::Span<const TrainingRow> rows,
                                                   absl::Span<const int64_t> step_rows,
                                                   const LoraRecipe& recipe, bool side_by_side,
                                                   int64_t group_size);

// How many micro-batches a run has in memory at once: no more than threads, and no more tokens than
// the recipe allows.
int64_t NumLanes(const LoraRecipe& recipe);

class SideBySide {
 public:
  // `weights`, `dropout` (null: none) and what inputs point to outlive the object. Memory: for each
  // lane the adapter's packed values and gradient and the activations of a micro-batch.
  SideBySide(const LlamaWeights& weights, const GradientPathInputs& inputs,
             const AdapterDropout* dropout);

  // Adds the gradients of the micro-batches, in their order, to the gradient tensors of the
  // adapter, whose values are those at the call, and gives each its loss_sum.
  void AddGradients(absl::Span<FastModel::MicroBatch> batches);

 private:
  // What one thread works with.
  struct Lane {
    Lane(const LlamaWeights& weights, const LoraTensors& lora, const AdapterDropout* dropout,
         Factors factors);
    void AddGradientTo(const LoraTensors& lora) const;

    at::Tensor gradient;  // flat; the gradients of `lora` are its parts
    LoraTensors lora;     // the adapter's values
    FastModel model;
    const int64_t slot;
  };
  // The next micro-batch to begin, and the one whose gradient is added next.
  struct Turns {
    std::atomic<size_t> begin = 0;
    std::atomic<size_t> add = 0;
  };
  void Run(Lane& lane, absl::Span<FastModel::MicroBatch> batches, Turns& turns) const;

  const LoraTensors& lora_;
  std::vector<std::unique_ptr<Lane>> lanes_;
};

}  // namespace evolora
