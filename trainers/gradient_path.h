#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "ATen/core/Tensor.h"
#include "absl/status/statusor.h"
#include "absl/types/span.h"
#include "evolora/model/llama_weights.h"
#include "evolora/model/lora_tensors.h"
#include "evolora/trainers/recipe.h"
#include "evolora/trainers/training_data.h"
#include "loss.h"

namespace evolora {

// Forward passes without gradient: what objectives ask of the model they compare with.
class FrozenPass {
 public:
  virtual ~FrozenPass() = default;
  // The hidden states, after the final norm, that predict the targets of sequences[i], i in
  // `indices`: one fp32 [targets, D] each, in order. kInit is the adapter as it is at the call.
  virtual absl::StatusOr<std::vector<at::Tensor>> TargetHidden(
      absl::Span<const TrainingRow> sequences, absl::Span<const int64_t> indices,
      FrozenModel model) = 0;
  // The head: logits [rows, vocabulary] of such hidden states [rows, D].
  virtual void Logits(const float* hidden, int64_t rows, float* logits) = 0;
  virtual int64_t vocabulary() const = 0;
};

// How the gradient of an optimiser step is computed. Two ways with the same numbers: the plain one
// by autograd over the reference forward, and the fast one by hand.
class GradientPath {
 public:
  virtual ~GradientPath() = default;
  // Adds d(loss_sum * factor) / d parameter of the rows `step_rows` of the training rows to the
  // gradient buffers of the adapter, and returns loss_sum, the sum of their losses (see loss.h; of
  // cross entropies in natural log). Uses the adapter's values as they are at the call.
  virtual absl::StatusOr<double> AddGradient(absl::Span<const int64_t> step_rows,
                                             double factor) = 0;
  // The same in two halves, between which a path on a device leaves the host free: the gradient is
  // on its way, in the order of whatever else is started there; and the loss_sum of that call,
  // which waits for it. Paths on the host do all in the first one.
  virtual absl::Status EnqueueGradient(absl::Span<const int64_t> step_rows, double factor);
  virtual absl::StatusOr<double> LossSum() { return loss_sum_; }
  // Null: the path trains no objective that needs one. Lives as long as the path.
  virtual FrozenPass* frozen_pass() { return nullptr; }

  // The optimiser step (from 0) that the next AddGradient belongs to: what dropout draws from.
  void set_step(int64_t step) { step_ = step; }

 protected:
  int64_t step() const { return step_; }

 private:
  int64_t step_ = 0;
  double loss_sum_ = 0;  // of the last EnqueueGradient
};

// All arguments outlive the path. `lora`'s tensors are leaves with gradient tensors (a.grad()).
struct GradientPathInputs {
  const LlamaWeights* base = nullptr;
  const LoraTensors* lora = nullptr;
  const LoraRecipe* recipe = nullptr;
  absl::Span<const TrainingRow> rows;
  Loss* loss = nullptr;  // of these rows; null: cross entropy
};
std::unique_ptr<GradientPath> MakeReferencePath(const GradientPathInputs& inputs);
std::unique_ptr<GradientPath> MakeFastPath(const GradientPathInputs& inputs);

}  // namespace evolora
