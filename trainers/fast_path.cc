#include <optional>
#include <vector>

#include "ATen/core/grad_mode.h"
#include "evolora/model/compact_weights.h"
#include "fast_adapter.h"
#include "fast_model.h"
#include "gradient_path.h"
#include "side_by_side.h"

namespace evolora {
namespace {

at::Tensor LlamaLayer::*const kVectors[] = {
    &LlamaLayer::input_norm, &LlamaLayer::post_norm, &LlamaLayer::q_bias, &LlamaLayer::k_bias,
    &LlamaLayer::v_bias,     &LlamaLayer::o_bias,    &LlamaLayer::q_norm, &LlamaLayer::k_norm};

at::Tensor Rounded(const at::Tensor& vector) {
  return vector.defined() ? vector.to(at::kBFloat16).to(at::kFloat) : vector;
}

// The base of bf16 numbers. Matrices that are in few bits already are rounded as they are read.
LlamaWeights Bf16Base(const LlamaWeights& base) {
  LlamaWeights rounded = base.compact != nullptr ? base : CompactCopy(base, WeightStorage::kBf16);
  rounded.final_norm = Rounded(rounded.final_norm);
  for (LlamaLayer& layer : rounded.layers) {
    for (const auto vector : kVectors) layer.*vector = Rounded(layer.*vector);
  }
  return rounded;
}

// The base with what is trained as a whole.
LlamaWeights BaseOf(const GradientPathInputs& inputs) {
  if (inputs.recipe->precision != TrainingPrecision::kFp32) return Bf16Base(*inputs.base);
  return WithModules(*inputs.base, inputs.lora->saved);
}

Factors FactorsOf(const LoraRecipe& recipe) {
  return recipe.precision == TrainingPrecision::kFp32 ? Factors::kFp32 : Factors::kBf16;
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
