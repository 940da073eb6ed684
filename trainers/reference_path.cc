// B rows, T padded length, D model width, N targets of the batch, each a row of the head.
#include <memory>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "ATen/autocast_mode.h"
#include "ATen/core/grad_mode.h"
#include "ATen/ops/from_blob.h"
#include "ATen/ops/mm.h"
#include "ATen/ops/ones.h"
#include "ATen/ops/tensor.h"
#include "adapter_dropout.h"
#include "evolora/core/status_macros.h"
#include "evolora/model/compact_weights.h"
#include "evolora/model/reference_forward.h"
#include "gradient_path.h"
#include "head_loss.h"
#include "row_order.h"

namespace evolora {
namespace {

// A micro-batch as tensors. Targets are labels shifted by one: the hidden row at t predicts t + 1.
struct MicroBatch {
  TokenBatch tokens;         // [B, T]
  at::Tensor hidden_rows_N;  // int64 indices into the flattened [B * T]
  at::Tensor targets_N;      // int64
  HeadTargets targets;       // the same, one row each
};

absl::StatusOr<MicroBatch> BuildMicroBatch(absl::Span<const TrainingRow> rows,
                                           absl::Span<const int64_t> indices) {
  std::vector<std::vector<TokenId>> ids;
  for (const int64_t i : indices) ids.push_back(rows[static_cast<size_t>(i)].ids);
  MicroBatch batch;
  ASSIGN_OR_RETURN(batch.tokens, PadRight(ids));
  const int64_t longest = batch.tokens.ids.size(1);
  std::vector<int64_t> hidden_rows, targets;
  for (size_t b = 0; b < indices.size(); ++b) {
    const TrainingRow& row = rows[static_cast<size_t>(indices[b])];
    int64_t ordinal = 0;
    for (size_t t = 1; t < row.labels.size(); ++t) {
      if (row.labels[t] == kIgnoreLabel) continue;
      const auto place = static_cast<int64_t>(targets.size());
      batch.targets.targets.push_back({place, row.labels[t], 1, place});
      batch.targets.labels.push_back({indices[b], ordinal++});
      hidden_rows.push_back(static_cast<int64_t>(b) * longest + static_cast<int64_t>(t) - 1);
      targets.push_back(row.labels[t]);
    }
  }
  batch.hidden_rows_N = at::tensor(hidden_rows, at::kLong);
  batch.targets_N = at::tensor(targets, at::kLong);
  return batch;
}

LlamaWeights BaseOf(const GradientPathInputs& inputs) {
  const LlamaWeights wide =
      inputs.base->compact != nullptr ? WidenedCopy(*inputs.base) : *inputs.base;
  if (inputs.recipe->precision == TrainingPrecision::kFp32) return wide;
  return CastCopy(wide, at::kBFloat16);
}

// torch.autocast("cpu", bfloat16) while it lives, unless `precision` is fp32.
class Autocast {
 public:
  explicit Autocast(TrainingPrecision precision)
      : is_on_(precision != TrainingPrecision::kFp32),
        was_enabled_(at::autocast::is_autocast_enabled(at::kCPU)),
        dtype_(at::autocast::get_autocast_dtype(at::kCPU)) {
    if (!is_on_) return;
    at::autocast::increment_nesting();
    at::autocast::set_autocast_enabled(at::kCPU, true);
    at::autocast::set_autocast_dtype(at::kCPU, at::kBFloat16);
  }
  ~Autocast() {
    if (!is_on_) return;
    at::autocast::set_autocast_enabled(at::kCPU, was_enabled_);
    at::autocast::set_autocast_dtype(at::kCPU, dtype_);
    // Rounded copies of the adapters are kept until here.
    if (at::autocast::decrement_nesting() == 0) at::autocast::clear_cache();
  }
  Autocast(const Autocast&) = delete;
  Autocast& operator=(const Autocast&) = delete;

 private:
  const bool is_on_;
  const bool was_enabled_;
  const at::ScalarType dtype_;
};

class ReferencePath : public GradientPath, public FrozenPass {
 public:
  explicit ReferencePath(const GradientPathInputs& inputs)
      : inputs_(inputs),
        base_(BaseOf(inputs)),
        own_loss_(inputs.loss == nullptr ? MakeCrossEntropy(inputs.rows) : nullptr),
        loss_(inputs.loss == nullptr ? *own_loss_ : *inputs.loss) {
    if (inputs.recipe->lora_dropout > 0) {
      dropout_.emplace(inputs.recipe->lora_dropout, inputs.recipe->seed);
    }
  }

  absl::StatusOr<double> AddGradient(absl::Span<const int64_t> step_rows, double factor) override {
    double loss_sum = 0;
    copies_.clear();
    const absl::Span<const TrainingRow> sequences = loss_.sequences();
    for (const std::vector<int64_t>& indices :
         MicroBatches(sequences, step_rows, inputs_.recipe->tokens_per_micro_batch,
                      loss_.sequences_per_row())) {
      ASSIGN_OR_RETURN(const MicroBatch batch, BuildMicroBatch(sequences, indices));
      ASSIGN_OR_RETURN(
          const at::Tensor hidden_BTD,
          Hidden(inputs_.lora, batch.tokens, Factors(indices, batch.tokens.ids.size(1))));
      const at::Tensor rows_ND = hidden_BTD.flatten(0, 1).index_select(0, batch.hidden_rows_N);
      const HeadLoss head = LossOfHead(rows_ND.detach(), batch, factor);
      loss_sum += head.loss_sum;
      rows_ND.backward(head.grad_hidden);
    }
    return loss_sum;
  }

  FrozenPass* frozen_pass() override { return this; }

  absl::StatusOr<std::vector<at::Tensor>> TargetHidden(absl::Span<const TrainingRow> sequences,
                                                       absl::Span<const int64_t> indices,
                                                       FrozenModel model) override {
    const at::NoGradGuard no_grad;
    std::vector<at::Tensor> all;
    for (const int64_t& i : indices) {
      ASSIGN_OR_RETURN(const MicroBatch batch,
                       BuildMicroBatch(sequences, absl::MakeConstSpan(&i, 1)));
      ASSIGN_OR_RETURN(const at::Tensor hidden_BTD,
                       Hidden(model == FrozenModel::kInit ? inputs_.lora : nullptr, batch.tokens));
      all.push_back(hidden_BTD.flatten(0, 1).index_select(0, batch.hidden_rows_N).to(at::kFloat));
    }
    return all;
  }

  void Logits(const float* hidden, int64_t rows, float* logits) override {
    const at::NoGradGuard no_grad;
    const at::Tensor& head = base_.head;
    const at::Tensor hidden_ND =
        at::from_blob(const_cast<float*>(hidden), {rows, head.size(1)}, at::kFloat);
    at::Tensor logits_NV = at::from_blob(logits, {rows, head.size(0)}, at::kFloat);
    if (head.scalar_type() == at::kFloat) {
      at::mm_out(logits_NV, hidden_ND, head.t());
    } else {
      logits_NV.copy_(at::mm(hidden_ND.to(head.scalar_type()), head.t()));
    }
  }
  int64_t vocabulary() const override { return base_.config.vocab_size; }

 private:
  absl::StatusOr<at::Tensor> Hidden(const LoraTensors* lora, const TokenBatch& tokens,
                                    const AdapterInputFactors& factors = {}) const {
    const Autocast autocast(inputs_.recipe->precision);
    return ReferenceHidden(base_, lora, tokens, factors);
  }

  // Dropout's factors of a batch of rows, padded to `longest` tokens.
  AdapterInputFactors Factors(absl::Span<const int64_t> indices, int64_t longest) {
    if (!dropout_) return {};
    std::vector<uint64_t> keys;
    for (const int64_t i : indices) {
      const int64_t copy = copies_[i]++;
      for (int64_t t = 0; t < longest; ++t) keys.push_back(DropoutTokenKey(step(), i, copy, t));
    }
    return [this, keys = std::move(keys), longest](const std::string& path, int64_t in) {
      const auto num_rows = static_cast<int64_t>(keys.size()) / longest;
      at::Tensor factors_BTI = at::ones({num_rows, longest, in}, at::kFloat);
      float* data = factors_BTI.mutable_data_ptr<float>();
      const uint64_t module_key = dropout_->ModuleKey(path);
      for (const uint64_t key : keys) {
        dropout_->Mask(module_key, key, in, data, data);
        data += in;
      }
      return factors_BTI;
    };
  }

  // Cross entropies keep a formula of their own here, the one that others are compared with.
  HeadLoss LossOfHead(const at::Tensor& rows_ND, const MicroBatch& batch, double factor) const {
    const at::Tensor head = EffectiveHead(base_, inputs_.lora);
    if (inputs_.recipe->objective.kind == ObjectiveKind::kSft) {
      return ChunkedHeadLoss(rows_ND, head, batch.targets_N, factor);
    }
    return ChunkedHeadLoss(rows_ND, head, batch.targets, loss_, factor);
  }

  const GradientPathInputs inputs_;
  const LlamaWeights base_;  // widened, if it is in few bits, and rounded, if the precision says so
  const std::unique_ptr<Loss> own_loss_;  // null: given
  Loss& loss_;
  std::optional<AdapterDropout> dropout_;
  std::unordered_map<int64_t, int64_t> copies_;  // rows of this step so far, by index
};

}  // namespace

std::unique_ptr<GradientPath> MakeReferencePath(const GradientPathInputs& inputs) {
  return std::make_unique<ReferencePath>(inputs);
}

}  // namespace evolora
