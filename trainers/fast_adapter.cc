#include "fast_adapter.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "ATen/Functions.h"
#include "ATen/core/grad_mode.h"
#include "side_by_side.h"

namespace evolora {
namespace {

std::optional<AdapterDropout> DropoutOf(const LoraRecipe& recipe) {
  if (recipe.lora_dropout == 0) return std::nullopt;
  return AdapterDropout(recipe.lora_dropout, recipe.seed);
}

}  // namespace

FastAdapter::FastAdapter(FastModel& model, const GradientPathInputs& inputs)
    : model_(model),
      inputs_(inputs),
      own_loss_(inputs.loss == nullptr ? MakeCrossEntropy(inputs.rows) : nullptr),
      loss_(inputs.loss == nullptr ? *own_loss_ : *inputs.loss),
      dropout_(DropoutOf(*inputs.recipe)),
      side_by_side_(RunsSideBySide(model.config(), *inputs.recipe, loss_)),
      slot_(model.Add(*inputs.lora, dropout())) {}

FastAdapter::~FastAdapter() { model_.Remove(slot_); }

std::vector<FastModel::MicroBatch> FastAdapter::BeginStep(int64_t step,
                                                          absl::Span<const int64_t> step_rows,
                                                          double factor) {
  const at::NoGradGuard no_grad;
  model_.PackAdapter(slot_);
  const bool share_prefixes = !dropout_.has_value();  // see adapter_dropout.h
  copies_.clear();
  const absl::Span<const TrainingRow> sequences = loss_.sequences();
  std::vector<FastModel::MicroBatch> batches;
  for (const std::vector<int64_t>& indices : FastMicroBatches(
           sequences, step_rows, *inputs_.recipe, side_by_side_, loss_.sequences_per_row())) {
    FastModel::MicroBatch batch = {.slot = slot_,
                                   .layout = LayOutTokens(sequences, indices, share_prefixes),
                                   .loss = &loss_,
                                   .factor = factor};
    if (dropout_) DrawKeys(step, batch);
    if (!batch.layout.predicting.empty()) batches.push_back(std::move(batch));
  }
  return batches;
}

// Keys of the tokens of a layout without shared prefixes.
void FastAdapter::DrawKeys(int64_t step, FastModel::MicroBatch& batch) {
  batch.dropout_keys = DropoutTokenKeys(step, batch.layout, copies_);
  for (const int64_t m : batch.layout.predicting) {
    batch.predicting_keys.push_back(batch.dropout_keys[static_cast<size_t>(m)]);
  }
}

double FastAdapter::MeanLoss(absl::Span<const TrainingRow> rows) {
  const at::NoGradGuard no_grad;
  model_.PackAdapter(slot_);
  std::vector<int64_t> indices(rows.size());
  std::iota(indices.begin(), indices.end(), 0);
  double sum = 0;
  int64_t num_labels = 0;
  for (const std::vector<int64_t>& batch :
       PackedMicroBatches(rows, indices, inputs_.recipe->tokens_per_micro_batch)) {
    const TokenLayout layout = LayOutTokens(rows, batch);
    if (layout.predicting.empty()) continue;
    sum += model_.head().CrossEntropySum(layout, model_.FinalHidden(layout, slot_));
    num_labels += static_cast<int64_t>(layout.labels.size());
  }
  return sum / static_cast<double>(num_labels);
}

absl::StatusOr<std::vector<at::Tensor>> FastAdapter::TargetHidden(
    absl::Span<const TrainingRow> sequences, absl::Span<const int64_t> indices, FrozenModel model) {
  const at::NoGradGuard no_grad;
  const int64_t width = model_.config().hidden_size;
  std::optional<int64_t> slot;
  if (model == FrozenModel::kInit) {
    model_.PackAdapter(slot_);
    slot = slot_;
  }
  std::vector<at::Tensor> all;
  std::unordered_map<int64_t, size_t> place;  // in `all`, by sequence
  for (const int64_t i : indices) {
    const int64_t num_targets = NumTargets(sequences[static_cast<size_t>(i)].labels);
    place[i] = all.size();
    all.push_back(at::empty({num_targets, width}, at::kFloat));
  }
  for (const std::vector<int64_t>& batch :
       PackedMicroBatches(sequences, indices, inputs_.recipe->tokens_per_micro_batch)) {
    const TokenLayout layout = LayOutTokens(sequences, batch);
    if (layout.predicting.empty()) continue;
    const float* hidden = model_.FinalHidden(layout, slot);
    for (const TokenLayout::Target& target : layout.targets) {
      for (int64_t j = 0; j < target.count; ++j) {
        const TokenLayout::Label& label =
            layout.labels[static_cast<size_t>(target.first_label + j)];
        std::copy_n(hidden + target.row * width, width,
                    all[place[label.sequence]].mutable_data_ptr<float>() + label.ordinal * width);
      }
    }
  }
  return all;
}

}  // namespace evolora
