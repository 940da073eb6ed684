#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <unordered_map>
#include <vector>

#include "absl/types/span.h"
#include "fast_model.h"
#include "gradient_path.h"

namespace evolora {

// One adapter in a slot of a model, from construction to destruction: what it needs to take part in
// passes. How a step's rows are cut does not depend on other adapters.
class FastAdapter : public FrozenPass {
 public:
  // `model` outlives the object, and so does what inputs point to; inputs.base is the model's.
  FastAdapter(FastModel& model, const GradientPathInputs& inputs);
  ~FastAdapter() override;
  FastAdapter(const FastAdapter&) = delete;
  FastAdapter& operator=(const FastAdapter&) = delete;

  // Takes over the adapter's present values and cuts the rows of an optimiser step (from 0) into
  // micro-batches: run all of them, in order.
  std::vector<FastModel::MicroBatch> BeginStep(int64_t step, absl::Span<const int64_t> step_rows,
                                               double factor);
  const AdapterDropout* dropout() const { return dropout_ ? &*dropout_ : nullptr; }
  // Whether micro-batches of a step may go through models side by side (side_by_side.h).
  bool runs_side_by_side() const { return side_by_side_; }

  // Mean cross entropy of the rows' labels under the adapter as it is; `rows` have a label.
  double MeanLoss(absl::Span<const TrainingRow> rows);

  absl::StatusOr<std::vector<at::Tensor>> TargetHidden(absl::Span<const TrainingRow> sequences,
                                                       absl::Span<const int64_t> indices,
                                                       FrozenModel model) override;
  void Logits(const float* hidden, int64_t rows, float* logits) override {
    model_.head().Logits(hidden, rows, logits);
  }
  int64_t vocabulary() const override { return model_.config().vocab_size; }

 private:
  void DrawKeys(int64_t step, FastModel::MicroBatch& batch);

  FastModel& model_;
  const GradientPathInputs inputs_;
  const std::unique_ptr<Loss> own_loss_;  // null: given
  Loss& loss_;
  std::optional<AdapterDropout> dropout_;
  std::unordered_map<int64_t, int64_t> copies_;  // rows of this step so far, by index
  const bool side_by_side_;
  const int64_t slot_;
};

}  // namespace evolora
