// N tokens, M tokens that predict something, D model width.
#include <algorithm>
#include <optional>
#include <unordered_map>
#include <utility>
#include <vector>

#include "ATen/Functions.h"
#include "ATen/Parallel.h"
#include "ATen/core/grad_mode.h"
#include "adapter_dropout.h"
#include "evolora/model/kernels.h"
#include "evolora/model/rope.h"
#include "fast_head.h"
#include "fast_layer.h"
#include "gradient_path.h"
#include "token_layout.h"

namespace evolora {
namespace {

class FastPath : public GradientPath, public FrozenPass {
 public:
  explicit FastPath(const GradientPathInputs& inputs)
      : inputs_(inputs),
        own_loss_(inputs.loss == nullptr ? MakeCrossEntropy(inputs.rows) : nullptr),
        loss_(inputs.loss == nullptr ? *own_loss_ : *inputs.loss),
        config_(inputs.base->config),
        head_(inputs.base->head),
        scratch_(config_),
        rope_frequencies_(RopeInverseFrequencies(config_)) {
    if (inputs.recipe->lora_dropout > 0) {
      dropout_.emplace(inputs.recipe->lora_dropout, inputs.recipe->seed);
    }
    for (int64_t i = 0; i < config_.num_layers; ++i) {
      layers_.emplace_back(*inputs.base, *inputs.lora, i, dropout_ ? &*dropout_ : nullptr);
    }
    FindLowestStage();
    kept_.resize(static_cast<size_t>(std::max<int64_t>(1, config_.num_layers - lowest_layer_)));
  }

  absl::StatusOr<double> AddGradient(absl::Span<const int64_t> step_rows, double factor) override {
    const at::NoGradGuard no_grad;
    for (FastLayer& layer : layers_) layer.PackAdapters();
    double loss_sum = 0;
    const bool share_prefixes = !dropout_.has_value();  // see adapter_dropout.h
    copies_.clear();
    const absl::Span<const TrainingRow> sequences = loss_.sequences();
    for (const std::vector<int64_t>& indices :
         PackedMicroBatches(sequences, step_rows, inputs_.recipe->tokens_per_micro_batch,
                            share_prefixes, loss_.sequences_per_row())) {
      loss_sum += MicroBatch(LayOutTokens(sequences, indices, share_prefixes), factor);
    }
    return loss_sum;
  }

  FrozenPass* frozen_pass() override { return this; }

  absl::StatusOr<std::vector<at::Tensor>> TargetHidden(absl::Span<const TrainingRow> sequences,
                                                       absl::Span<const int64_t> indices,
                                                       FrozenModel model) override {
    const at::NoGradGuard no_grad;
    if (model == FrozenModel::kInit) {
      for (FastLayer& layer : layers_) layer.PackAdapters();
    }
    std::vector<at::Tensor> all;
    std::unordered_map<int64_t, size_t> place;  // in `all`, by sequence
    for (const int64_t i : indices) {
      const int64_t num_targets = NumTargets(sequences[static_cast<size_t>(i)].labels);
      place[i] = all.size();
      all.push_back(at::empty({num_targets, config_.hidden_size}, at::kFloat));
    }
    for (const std::vector<int64_t>& batch :
         PackedMicroBatches(sequences, indices, inputs_.recipe->tokens_per_micro_batch)) {
      const TokenLayout layout = LayOutTokens(sequences, batch);
      if (layout.predicting.empty()) continue;
      const float* hidden =
          FinalHidden(layout, model == FrozenModel::kBase ? Pass::kBare : Pass::kFrozen);
      for (const TokenLayout::Target& target : layout.targets) {
        for (int64_t j = 0; j < target.count; ++j) {
          const TokenLayout::Label& label =
              layout.labels[static_cast<size_t>(target.first_label + j)];
          std::copy_n(hidden + target.row * config_.hidden_size, config_.hidden_size,
                      all[place[label.sequence]].mutable_data_ptr<float>() +
                          label.ordinal * config_.hidden_size);
        }
      }
    }
    return all;
  }

  void Logits(const float* hidden, int64_t rows, float* logits) override {
    head_.Logits(hidden, rows, logits);
  }
  int64_t vocabulary() const override { return config_.vocab_size; }

 private:
  // The lowest stage that carries an adapter: nothing below it needs a gradient.
  void FindLowestStage() {
    for (int64_t i = 0; i < config_.num_layers; ++i) {
      for (const Stage stage : {Stage::kQkv, Stage::kOut, Stage::kGateUp, Stage::kDown}) {
        if (!layers_[static_cast<size_t>(i)].adapted(stage)) continue;
        lowest_layer_ = i;
        lowest_stage_ = stage;
        return;
      }
    }
    lowest_layer_ = config_.num_layers;
  }

  // Layers below the lowest adapted one leave nothing and share one place.
  LayerKept& Kept(int64_t layer) {
    return kept_[static_cast<size_t>(std::max<int64_t>(0, layer - lowest_layer_))];
  }

  // What a forward pass is for. Only kTraining drops features; kBare goes without adapters.
  enum class Pass { kTraining, kFrozen, kBare };

  LayerTokens Tokens(const TokenLayout& layout, int64_t layer, Pass pass) const {
    const bool drops = dropout_.has_value() && pass == Pass::kTraining;
    return {.layout = &layout,
            .cos = rope_cos_.const_data_ptr<float>(),
            .sin = rope_sin_.const_data_ptr<float>(),
            .minus_sin = rope_minus_sin_.const_data_ptr<float>(),
            .only_predicting = layer == config_.num_layers - 1,
            .dropout_keys = drops ? keys_.data() : nullptr,
            .dropout_keys_on = !drops                            ? nullptr
                               : layer == config_.num_layers - 1 ? predicting_keys_.data()
                                                                 : keys_.data(),
            .bare = pass == Pass::kBare};
  }

  // Keys of the tokens of a layout without shared prefixes.
  void DrawKeys(const TokenLayout& layout) {
    keys_.clear();
    for (const TokenLayout::Segment& segment : layout.segments) {
      const int64_t copy = copies_[segment.row]++;
      for (int64_t t = 0; t < segment.num_tokens; ++t) {
        keys_.push_back(DropoutTokenKey(step(), segment.row, copy, segment.first_position + t));
      }
    }
    predicting_keys_.clear();
    for (const int64_t m : layout.predicting) {
      predicting_keys_.push_back(keys_[static_cast<size_t>(m)]);
    }
  }

  void GrowRope(int64_t positions) {
    const int64_t have = rope_cos_.defined() ? rope_cos_.size(0) : 0;
    if (positions <= have) return;
    const RopeTables tables =
        RopeAt(rope_frequencies_, at::arange(std::max(positions, 2 * have), at::kLong));
    rope_cos_ = tables.cos;
    rope_sin_ = tables.sin;
    rope_minus_sin_ = tables.sin.neg();
  }

  double MicroBatch(const TokenLayout& layout, double factor) {
    if (dropout_) DrawKeys(layout);
    if (layout.predicting.empty()) return 0;
    const float* hidden = FinalHidden(layout, Pass::kTraining);
    const double loss = Head(layout, hidden, factor);
    Backward(layout);
    return loss;
  }

  // [M, D] after the final norm. The last layer's output stays in x_.
  const float* FinalHidden(const TokenLayout& layout, Pass pass) {
    GrowRope(*std::max_element(layout.positions.begin(), layout.positions.end()) + 1);
    Forward(layout, pass);
    const int64_t width = config_.hidden_size;
    const auto rows = static_cast<int64_t>(layout.predicting.size());
    const float* weight = inputs_.base->final_norm.const_data_ptr<float>();
    const auto eps = static_cast<float>(config_.rms_norm_eps);
    const float* x = x_.data();
    float* unit = unit_.Reserve(rows * width);
    float* hidden = hidden_.Reserve(rows * width);
    float* factors = factors_.Reserve(rows);
    at::parallel_for(0, rows, 8, [&](int64_t begin, int64_t end) {
      for (int64_t m = begin; m < end; ++m) {
        factors[m] = Kernels().rms_norm_keep(x + m * width, weight, width, eps, unit + m * width,
                                             hidden + m * width);
      }
    });
    return hidden;
  }

  void Forward(const TokenLayout& layout, Pass pass) {
    const int64_t width = config_.hidden_size;
    float* x = x_.Reserve(static_cast<int64_t>(layout.ids.size()) * width);
    const float* embedding = inputs_.base->embedding.const_data_ptr<float>();
    for (size_t m = 0; m < layout.ids.size(); ++m) {
      std::copy_n(embedding + layout.ids[m] * width, width, x + static_cast<int64_t>(m) * width);
    }
    for (int64_t i = 0; i < config_.num_layers; ++i) {
      layers_[static_cast<size_t>(i)].Forward(Tokens(layout, i, pass), x, Kept(i), scratch_);
    }
  }

  // Leaves the gradient of the last layer's output, [M, D], in x_.
  double Head(const TokenLayout& layout, const float* hidden, double factor) {
    const int64_t width = config_.hidden_size;
    const auto rows = static_cast<int64_t>(layout.predicting.size());
    const float* weight = inputs_.base->final_norm.const_data_ptr<float>();
    float* d_hidden = d_hidden_.Reserve(rows * width);
    const double loss = head_.LossAndGradient(layout, hidden, loss_, factor, d_hidden);
    float* x = x_.data();
    std::fill_n(x, rows * width, 0.0f);
    at::parallel_for(0, rows, 8, [&](int64_t begin, int64_t end) {
      for (int64_t m = begin; m < end; ++m) {
        Kernels().rms_norm_backward(d_hidden + m * width, weight, unit_.data() + m * width,
                                    factors_.data()[m], width, x + m * width);
      }
    });
    return loss;
  }

  void Backward(const TokenLayout& layout) {
    for (int64_t i = config_.num_layers - 1; i >= lowest_layer_; --i) {
      const FastLayer::Until until = {.last = lowest_stage_, .through = i > lowest_layer_};
      layers_[static_cast<size_t>(i)].Backward(Tokens(layout, i, Pass::kTraining), until, x_.data(),
                                               Kept(i), scratch_);
    }
  }

  const GradientPathInputs inputs_;
  const std::unique_ptr<Loss> own_loss_;  // null: given
  Loss& loss_;
  const LlamaConfig& config_;
  std::optional<AdapterDropout> dropout_;
  std::unordered_map<int64_t, int64_t> copies_;   // rows of this step so far, by index
  std::vector<uint64_t> keys_, predicting_keys_;  // of the micro-batch's tokens
  std::vector<FastLayer> layers_;
  int64_t lowest_layer_ = 0;
  Stage lowest_stage_ = Stage::kQkv;
  FastHead head_;
  std::vector<LayerKept> kept_;  // from lowest_layer_ on
  LayerScratch scratch_;
  Buffer x_;                                   // [N, D]: the residual stream, then its gradient
  Buffer unit_, factors_, hidden_, d_hidden_;  // of the final norm and the head, [M, ..]
  at::Tensor rope_frequencies_, rope_cos_, rope_sin_, rope_minus_sin_;  // by position
};

}  // namespace

std::unique_ptr<GradientPath> MakeFastPath(const GradientPathInputs& inputs) {
  return std::make_unique<FastPath>(inputs);
}

}  // namespace evolora
