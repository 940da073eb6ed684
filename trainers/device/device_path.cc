#include "device/device_path.h"

#include <optional>
#include <unordered_map>
#include <utility>
#include <vector>

#include "ATen/Functions.h"
#include "ATen/core/grad_mode.h"
#include "adapter_dropout.h"
#include "c10/core/DeviceGuard.h"
#include "device/device_batches.h"
#include "device/device_loss.h"
#include "device/device_model.h"
#include "device/device_tokens.h"
#include "device/head_rows.h"
#include "token_layout.h"

namespace evolora {
namespace {

std::optional<AdapterDropout> DropoutOf(const LoraRecipe& recipe) {
  if (recipe.lora_dropout == 0) return std::nullopt;
  return AdapterDropout(recipe.lora_dropout, recipe.seed);
}

std::shared_ptr<GraphRecorder> RecorderOf(const DevicePathOptions& options) {
  if (!options.graphs || options.recorder != nullptr) return options.recorder;
  return MakeCudaGraphRecorder(options.device);
}

class DevicePath : public GradientPath, public FrozenPass {
 public:
  DevicePath(const GradientPathInputs& inputs, const DevicePathOptions& options)
      : inputs_(inputs),
        own_loss_(inputs.loss == nullptr ? MakeCrossEntropy(inputs.rows) : nullptr),
        loss_(inputs.loss == nullptr ? *own_loss_ : *inputs.loss),
        dropout_(DropoutOf(*inputs.recipe)),
        share_prefixes_(options.share_prefixes),
        math_(options.device, options.dtype),
        attention_(options.attention != nullptr ? options.attention
                                                : MakeFlashAttention(inputs.base->config, math_)),
        resident_(options.base),
        model_(MakeModel(options)),
        upload_(math_, {.places = attention_ == nullptr, .dropout = dropout_.has_value()}),
        frozen_upload_(math_, {.places = attention_ == nullptr}),
        device_loss_(MakeDeviceLoss(loss_, math_, model_.head().weight())),
        sums_(at::zeros({kLossTerms}, math_.fp32().dtype(at::kDouble))),
        buckets_(options.graphs),
        graphs_(RecorderOf(options)) {}

  absl::Status EnqueueGradient(absl::Span<const int64_t> step_rows, double factor) override {
    const at::NoGradGuard no_grad;
    const c10::DeviceGuard guard(math_.device());
    model_.TakeAdapter();
    sums_.zero_();
    copies_.clear();
    for (const TokenLayout& layout :
         DeviceMicroBatches(loss_.sequences(), step_rows, Limits(),
                            share_prefixes_ && !dropout_.has_value(), loss_.sequences_per_row())) {
      const std::vector<uint64_t> keys =
          dropout_ ? DropoutTokenKeys(step(), layout, copies_) : std::vector<uint64_t>();
      if (!layout.predicting.empty()) MicroBatch(layout, keys, factor);
    }
    return absl::OkStatus();
  }

  absl::StatusOr<double> LossSum() override {
    const at::Tensor sums = sums_.cpu();
    const absl::Span<const double> values(sums.const_data_ptr<double>(), kLossTerms);
    loss_.AddTerms(values.subspan(1));
    return values[0];
  }

  absl::StatusOr<double> AddGradient(absl::Span<const int64_t> step_rows, double factor) override {
    if (const absl::Status started = EnqueueGradient(step_rows, factor); !started.ok()) {
      return started;
    }
    return LossSum();
  }

  FrozenPass* frozen_pass() override { return this; }

  absl::StatusOr<std::vector<at::Tensor>> TargetHidden(absl::Span<const TrainingRow> sequences,
                                                       absl::Span<const int64_t> indices,
                                                       FrozenModel model) override {
    const at::NoGradGuard no_grad;
    const c10::DeviceGuard guard(math_.device());
    model_.TakeAdapter();
    graphs_.Forget();
    std::vector<at::Tensor> all;
    std::unordered_map<int64_t, size_t> place;  // in `all`, by sequence
    for (const int64_t i : indices) {
      place[i] = all.size();
      all.push_back(at::empty(
          {NumTargets(sequences[static_cast<size_t>(i)].labels), model_.config().hidden_size},
          at::kFloat));
    }
    for (const TokenLayout& layout :
         DeviceMicroBatches(sequences, indices, Limits(), share_prefixes_)) {
      if (layout.predicting.empty()) continue;
      const at::Tensor hidden = FrozenHidden(layout, model == FrozenModel::kBase);
      for (const TokenLayout::Target& target : layout.targets) {
        for (int64_t i = target.first_label; i < target.first_label + target.count; ++i) {
          const TokenLayout::Label& label = layout.labels[static_cast<size_t>(i)];
          all[place[label.sequence]].select(0, label.ordinal).copy_(hidden.select(0, target.row));
        }
      }
    }
    return all;
  }

  void Logits(const float* hidden, int64_t rows, float* logits) override {
    const at::NoGradGuard no_grad;
    model_.head().Logits(hidden, rows, logits);
  }
  int64_t vocabulary() const override { return model_.config().vocab_size; }

 private:
  DeviceModel MakeModel(const DevicePathOptions& options) const {
    const LlamaWeights weights = WithModules(*inputs_.base, inputs_.lora->saved);
    DeviceCopies copies;
    DeviceBase base;
    if (resident_ != nullptr) {
      base = resident_->base;
      CopyTrained(weights, math_, copies, base);
    } else {
      base = CopyBase(weights, math_, options.limits.widened_at_once, copies);
    }
    return {weights.config,
            std::move(base),
            std::move(copies),
            *inputs_.lora,
            dropout_ ? &*dropout_ : nullptr,
            math_,
            attention_.get(),
            options.limits};
  }

  DeviceBatchLimits Limits() const { return {.tokens = inputs_.recipe->tokens_per_micro_batch}; }

  void MicroBatch(const TokenLayout& layout, absl::Span<const uint64_t> keys, double factor) {
    const HeadRows head = device_loss_->RowsOf(layout);
    BatchShape shape = ShapeOf(layout, head);
    if (buckets_) shape = Bucket(shape, inputs_.recipe->tokens_per_micro_batch);
    model_.ReservePositions(shape.longest_row);
    upload_.Move({.layout = layout, .head = head, .factor = factor, .dropout_keys = keys}, shape);
    device_loss_->Move(head, shape);
    graphs_.Run(shape, [this, shape] {
      const DeviceTokens tokens = upload_.TokensOf(shape);
      const at::Tensor hidden = model_.Hidden(tokens, /*bare=*/false);
      const at::Tensor d_hidden = at::empty_like(hidden);
      model_.head().LossAndGradient(tokens, *device_loss_, hidden, d_hidden, sums_);
      model_.Backward(tokens, d_hidden);
    });
  }

  // On the host, fp32.
  at::Tensor FrozenHidden(const TokenLayout& layout, bool bare) {
    const HeadRows head = RowsByToken(layout);
    const BatchShape shape = ShapeOf(layout, head);
    model_.ReservePositions(shape.longest_row);
    frozen_upload_.Move({.layout = layout, .head = head, .factor = 0}, shape);
    return model_.Hidden(frozen_upload_.TokensOf(shape), bare)
        .to(at::device(at::kCPU).dtype(at::kFloat));
  }

  const GradientPathInputs inputs_;
  const std::unique_ptr<Loss> own_loss_;  // null: given
  Loss& loss_;
  const std::optional<AdapterDropout> dropout_;
  const bool share_prefixes_;
  const DeviceMath math_;
  const std::shared_ptr<const PackedAttention> attention_;
  const std::shared_ptr<const ResidentBase> resident_;  // null: the model's own
  DeviceModel model_;
  TokenUpload upload_, frozen_upload_;
  const std::unique_ptr<DeviceLoss> device_loss_;
  at::Tensor sums_;  // of a step: terms of the loss, on the device; the first is the loss
  const bool buckets_;
  std::unordered_map<int64_t, int64_t> copies_;  // rows of this step so far, by index
  GraphCache graphs_;
};

}  // namespace

std::unique_ptr<GradientPath> MakeDevicePath(const GradientPathInputs& inputs,
                                             const DevicePathOptions& options) {
  return std::make_unique<DevicePath>(inputs, options);
}

}  // namespace evolora
