#include <vector>

#include "ATen/core/grad_mode.h"
#include "fast_adapter.h"
#include "fast_model.h"
#include "gradient_path.h"

namespace evolora {
namespace {

// One adapter on a model of its own.
class FastPath : public GradientPath {
 public:
  explicit FastPath(const GradientPathInputs& inputs)
      : weights_(WithModules(*inputs.base, inputs.lora->saved)),
        model_(weights_),
        adapter_(model_, inputs) {}

  absl::StatusOr<double> AddGradient(absl::Span<const int64_t> step_rows, double factor) override {
    const at::NoGradGuard no_grad;
    double loss_sum = 0;
    for (FastModel::MicroBatch& batch : adapter_.BeginStep(step(), step_rows, factor)) {
      model_.AddGradients(absl::MakeSpan(&batch, 1));
      loss_sum += batch.loss_sum;
    }
    return loss_sum;
  }

  FrozenPass* frozen_pass() override { return &adapter_; }

 private:
  const LlamaWeights weights_;  // the base with what is trained as a whole
  FastModel model_;
  FastAdapter adapter_;
};

}  // namespace

std::unique_ptr<GradientPath> MakeFastPath(const GradientPathInputs& inputs) {
  return std::make_unique<FastPath>(inputs);
}

}  // namespace evolora
