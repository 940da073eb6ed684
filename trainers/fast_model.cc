// N tokens, M tokens that predict something, D model width.
#include "fast_model.h"

#include <algorithm>
#include <utility>

#include "ATen/Functions.h"
#include "ATen/Parallel.h"
#include "evolora/model/compact_weights.h"
#include "evolora/model/kernels.h"
#include "evolora/model/rope.h"
#include "norm_gradient.h"

namespace evolora {

FastModel::FastModel(const LlamaWeights& base, Factors factors)
    : base_(base),
      config_(base.config),
      head_(base, factors),
      scratch_(config_),
      rope_frequencies_(RopeInverseFrequencies(config_)) {
  for (int64_t i = 0; i < config_.num_layers; ++i) {
    layers_.emplace_back(base_, i, factors);
  }
}

int64_t FastModel::Add(const LoraTensors& lora, const AdapterDropout* dropout) {
  auto free = std::find(slots_.begin(), slots_.end(), std::nullopt);
  if (free == slots_.end()) free = slots_.insert(slots_.end(), std::nullopt);
  const int64_t slot = free - slots_.begin();
  for (FastLayer& layer : layers_) layer.Add(slot, lora, dropout);
  *free = LowestOf(slot);
  return slot;
}

void FastModel::Remove(int64_t slot) {
  for (FastLayer& layer : layers_) layer.Remove(slot);
  slots_[static_cast<size_t>(slot)].reset();
}

void FastModel::PackAdapter(int64_t slot) {
  at::parallel_for(0, config_.num_layers, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) layers_[static_cast<size_t>(i)].PackAdapter(slot);
  });
}

Lowest FastModel::LowestOf(int64_t slot) const {
  if (GradientOf(base_.embedding) != nullptr) return {.layer = 0, .inside = false};
  std::vector<TrainedParts> parts;
  for (const FastLayer& layer : layers_) parts.push_back(layer.trained_parts(slot));
  return LowestTrained(parts);
}

FastModel::Pass FastModel::MakePass(absl::Span<const MicroBatch> batches,
                                    TokenLayout& joined) const {
  Pass pass = {.lowest = {.layer = config_.num_layers}};
  std::vector<const TokenLayout*> layouts;
  int64_t token = 0, predicting = 0;
  for (const MicroBatch& batch : batches) {
    const auto keys = [](const std::vector<uint64_t>& k) { return k.empty() ? nullptr : k.data(); };
    const auto num_predicting = static_cast<int64_t>(batch.layout.predicting.size());
    pass.runs.push_back({batch.slot, token, batch.num_tokens(), keys(batch.dropout_keys)});
    pass.runs_on.push_back({batch.slot, predicting, num_predicting, keys(batch.predicting_keys)});
    pass.lowest = std::min(pass.lowest, *slots_[static_cast<size_t>(batch.slot)]);
    layouts.push_back(&batch.layout);
    token += batch.num_tokens();
    predicting += num_predicting;
  }
  if (batches.size() > 1) joined = JoinLayouts(layouts);
  pass.layout = batches.size() > 1 ? &joined : layouts.front();
  return pass;
}

void FastModel::AddGradients(absl::Span<MicroBatch> batches) {
  if (batches.empty()) return;
  TokenLayout joined;
  const Pass pass = MakePass(batches, joined);
  Head(pass, batches, HiddenOf(pass));
  Backward(pass);
}

const float* FastModel::FinalHidden(const TokenLayout& layout, std::optional<int64_t> slot) {
  Pass pass = {.layout = &layout, .lowest = {.layer = config_.num_layers}};
  if (slot.has_value()) {
    pass.runs = {{*slot, 0, static_cast<int64_t>(layout.ids.size())}};
    pass.runs_on = {{*slot, 0, static_cast<int64_t>(layout.predicting.size())}};
  }
  return HiddenOf(pass);
}

// Layers below the lowest adapted one leave nothing and share one place.
LayerKept& FastModel::Kept(const Pass& pass, int64_t layer) {
  const auto place = static_cast<size_t>(std::max<int64_t>(0, layer - pass.lowest.layer));
  if (kept_.size() <= place) kept_.resize(place + 1);
  return kept_[place];
}

LayerTokens FastModel::Tokens(const Pass& pass, int64_t layer) const {
  const bool last = layer == config_.num_layers - 1;
  return {.layout = pass.layout,
          .cos = rope_cos_.const_data_ptr<float>(),
          .sin = rope_sin_.const_data_ptr<float>(),
          .minus_sin = rope_minus_sin_.const_data_ptr<float>(),
          .only_predicting = last,
          .runs = pass.runs,
          .runs_on = last ? pass.runs_on : pass.runs};
}

void FastModel::GrowRope(int64_t positions) {
  const int64_t have = rope_cos_.defined() ? rope_cos_.size(0) : 0;
  if (positions <= have) return;
  const RopeTables tables =
      RopeAt(rope_frequencies_, at::arange(std::max(positions, 2 * have), at::kLong));
  rope_cos_ = tables.cos;
  rope_sin_ = tables.sin;
  rope_minus_sin_ = tables.sin.neg();
}

// [M, D] after the final norm. The last layer's output stays in x_.
const float* FastModel::HiddenOf(const Pass& pass) {
  const TokenLayout& layout = *pass.layout;
  GrowRope(*std::max_element(layout.positions.begin(), layout.positions.end()) + 1);
  Forward(pass);
  const int64_t width = config_.hidden_size;
  const auto rows = static_cast<int64_t>(layout.predicting.size());
  const float* weight = base_.final_norm.const_data_ptr<float>();
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

void FastModel::Embed(TokenId id, float* x) const {
  if (!base_.embedding.defined()) return base_.compact->embedding.WidenRow(id, x);
  const int64_t width = config_.hidden_size;
  std::copy_n(base_.embedding.const_data_ptr<float>() + id * width, width, x);
}

void FastModel::Forward(const Pass& pass) {
  const int64_t width = config_.hidden_size;
  const std::vector<TokenId>& ids = pass.layout->ids;
  float* x = x_.Reserve(static_cast<int64_t>(ids.size()) * width);
  for (size_t m = 0; m < ids.size(); ++m) Embed(ids[m], x + static_cast<int64_t>(m) * width);
  for (int64_t i = 0; i < config_.num_layers; ++i) {
    layers_[static_cast<size_t>(i)].Forward(Tokens(pass, i), x, Kept(pass, i), scratch_);
  }
}

// Leaves the gradient of the last layer's output, [M, D], in x_.
void FastModel::Head(const Pass& pass, absl::Span<MicroBatch> batches, const float* hidden) {
  const int64_t width = config_.hidden_size;
  const auto rows = static_cast<int64_t>(pass.layout->predicting.size());
  const float* weight = base_.final_norm.const_data_ptr<float>();
  float* d_hidden = d_hidden_.Reserve(rows * width);
  std::vector<FastHead::Part> parts;
  for (const MicroBatch& batch : batches)
    parts.push_back({&batch.layout, batch.loss, batch.factor});
  head_.LossAndGradient(absl::MakeSpan(parts), hidden, d_hidden);
  for (size_t i = 0; i < parts.size(); ++i) batches[i].loss_sum = parts[i].loss_sum;
  if (float* gradient = GradientOf(base_.final_norm)) {
    AddNormGradient(d_hidden, unit_.data(), rows, width, gradient);
  }
  float* x = x_.data();
  std::fill_n(x, rows * width, 0.0f);
  at::parallel_for(0, rows, 8, [&](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m) {
      Kernels().rms_norm_backward(d_hidden + m * width, weight, unit_.data() + m * width,
                                  factors_.data()[m], width, x + m * width);
    }
  });
}

void FastModel::Backward(const Pass& pass) {
  const Lowest& lowest = pass.lowest;
  for (int64_t i = config_.num_layers - 1; i >= lowest.layer; --i) {
    const FastLayer::Until until = {.last = lowest.stage,
                                    .through = i > lowest.layer || !lowest.inside};
    layers_[static_cast<size_t>(i)].Backward(Tokens(pass, i), until, x_.data(), Kept(pass, i),
                                             scratch_);
  }
  if (float* gradient = GradientOf(base_.embedding)) AddEmbeddingGradient(*pass.layout, gradient);
}

// From the gradient of the first layer's input, in x_.
void FastModel::AddEmbeddingGradient(const TokenLayout& layout, float* gradient) const {
  const int64_t width = config_.hidden_size;
  const float* dx = x_.data();
  for (const TokenId id : layout.ids) {
    Kernels().add(dx, width, gradient + id * width);
    dx += width;
  }
}

}  // namespace evolora
