#include <optional>
#include <vector>

#include "ATen/core/grad_mode.h"
#include "bf16_base.h"
#include "evolora/model/compact_weights.h"
#include "fast_adapter.h"
#include "fast_model.h"
#include "gradient_path.h"
#include "side_by_side.h"

namespace evolora {
namespace {

// The base with what is trained as a whole.
LlamaWeights BaseOf(const GradientPathInputs& inputs) {
  if (FactorsOf(*inputs.recipe) == Factors::kBf16) return Bf16Base(*inputs.base);
  return WithModules(*inputs.base, inputs.lora->saved);
}

// One adapter on a model of its own.
class FastPath : public GradientPath {
 public:
  explicit FastPath(const GradientPathInputs& inputs)
      : weights_(BaseOf(inputs)),
        model_(weights_, FactorsOf(*inputs.recipe)),
        adapter_(model_, inputs) {
    if (adapter_.runs_side_by_side()) side_by_side_.emplace(weights_, inputs, adapter_.dropout());
  }

  absl::StatusOr<double> AddGradient(absl::Span<const int64_t> step_rows, double factor) override {
    const at::NoGradGuard no_grad;
    double loss_sum = 0;
    std::vector<FastModel::MicroBatch> batches = adapter_.BeginStep(step(), step_rows, factor);
    if (side_by_side_ && batches.size() > 1) {
      side_by_side_->AddGradients(absl::MakeSpan(batches));
    } else {
      for (FastModel::MicroBatch& batch : batches) model_.AddGradients(absl::MakeSpan(&batch, 1));
    }
    for (const FastModel::MicroBatch& batch : batches) loss_sum += batch.loss_sum;
    return loss_sum;
  }

  FrozenPass* frozen_pass() override { return &adapter_; }

 private:
  const LlamaWeights weights_;
  FastModel model_;
  FastAdapter adapter_;
  std::optional<SideBySide> side_by_side_;
};

}  // namespace

std::unique_ptr<GradientPath> MakeFastPath(const GradientPathInputs& inputs) {
  return std::make_unique<FastPath>(inputs);
}

}  // namespace evolora
