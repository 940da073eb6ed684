#include "side_by_side.h"

#include <algorithm>

#include "ATen/Functions.h"
#include "ATen/Parallel.h"
#include "ATen/core/grad_mode.h"
#include "bf16_base.h"
#include "evolora/model/kernels.h"
#include "flat_parameters.h"

namespace evolora {
namespace {

// Weights of a decoder layer that lie in the second-level cache of one processor. Above it a
// product takes longer than threads wait for each other at its end.
constexpr int64_t kMostLayerWeights = int64_t{1} << 19;
// Tokens of a micro-batch that has a thread of its own: enough to read a weight often, few enough
// for several of them in a step. About so many, and not less than.
constexpr int64_t kTokensPerLane = 256, kLeastTokensPerLane = 32;
// Tokens more, of 100, that may be computed because rows with a common prefix part.
constexpr int64_t kMostExtraPercent = 2;

int64_t LayerWeights(const LlamaConfig& c) {
  const int64_t heads = 2 * (c.num_heads + c.num_kv_heads) * c.head_dim;
  return c.hidden_size * (heads + 3 * c.intermediate_size);
}

int64_t NumValues(const LoraTensor& module) {
  return module.a.numel() + module.b.numel() +
         (module.magnitude.defined() ? module.magnitude.numel() : 0);
}

int64_t NumValues(const LoraTensors& lora) {
  int64_t count = 0;
  for (const auto& [path, module] : lora.modules) count += NumValues(module);
  return count;
}

// The same values with gradients in `gradient`, one behind the other.
LoraTensors WithGradient(const LoraTensors& lora, const at::Tensor& gradient) {
  LoraTensors own;
  int64_t begin = 0;
  const auto leaf = [&](const at::Tensor& value) {
    const at::Tensor part = gradient.narrow(0, begin, value.numel()).view(value.sizes());
    begin += value.numel();
    return LeafOver(value.detach(), part);
  };
  for (const auto& [path, module] : lora.modules) {
    LoraTensor& mine = own.modules[path];
    mine = {.a = leaf(module.a), .b = leaf(module.b), .scale = module.scale};
    if (module.magnitude.defined()) mine.magnitude = leaf(module.magnitude);
  }
  return own;
}

void AddTo(const at::Tensor& leaf, const float* values) {
  Kernels().add(values, leaf.numel(), leaf.grad().mutable_data_ptr<float>());
}

// Waits until `turn` is `mine`.
void WaitFor(std::atomic<size_t>& turn, size_t mine) {
  for (size_t now = turn; now != mine; now = turn) turn.wait(now);
}

}  // namespace

bool RunsSideBySide(const LlamaConfig& config, const LoraRecipe& recipe, const Loss& loss) {
  return LayerWeights(config) <= kMostLayerWeights && recipe.method == TrainingMethod::kLora &&
         recipe.modules_to_save.empty() && loss.takes_batches_at_once();
}

int64_t NumLanes(const LoraRecipe& recipe) {
  const int64_t most = std::max<int64_t>(1, recipe.tokens_per_micro_batch / kTokensPerLane);
  return std::min<int64_t>(at::get_num_threads(), most);
}

std::vector<std::vector<int64_t>> FastMicroBatches(absl::Span<const TrainingRow> rows,
                                                   absl::Span<const int64_t> step_rows,
                                                   const LoraRecipe& recipe, bool side_by_side,
                                                   int64_t group_size) {
  const bool share = recipe.lora_dropout == 0;
  const auto cut = [&](int64_t tokens) {
    return PackedMicroBatches(rows, step_rows, tokens, share, group_size);
  };
  auto coarse = cut(recipe.tokens_per_micro_batch);
  if (!side_by_side) return coarse;
  const int64_t least = NumPackedTokens(rows, coarse, share);
  if (least < 2 * kLeastTokensPerLane) return coarse;
  // An even number of even pieces, each with half a row's room for rows that do not cut evenly.
  const int64_t pieces = (least + 2 * kTokensPerLane - 1) / (2 * kTokensPerLane) * 2;
  const int64_t half_row = least / (2 * static_cast<int64_t>(step_rows.size()));
  auto fine = cut(std::min(recipe.tokens_per_micro_batch, least / pieces + half_row));
  const bool is_cheap =
      100 * NumPackedTokens(rows, fine, share) <= (100 + kMostExtraPercent) * least;
  return is_cheap ? fine : coarse;
}

SideBySide::Lane::Lane(const LlamaWeights& weights, const LoraTensors& adapter,
                       const AdapterDropout* dropout, Factors factors)
    : gradient(at::zeros({NumValues(adapter)}, at::kFloat)),
      lora(WithGradient(adapter, gradient)),
      model(weights, factors),
      slot(model.Add(lora, dropout)) {}

void SideBySide::Lane::AddGradientTo(const LoraTensors& sum) const {
  const float* values = gradient.const_data_ptr<float>();
  for (const auto& [path, module] : sum.modules) {
    AddTo(module.a, values);
    AddTo(module.b, values + module.a.numel());
    if (module.magnitude.defined()) {
      AddTo(module.magnitude, values + module.a.numel() + module.b.numel());
    }
    values += NumValues(module);
  }
}

SideBySide::SideBySide(const LlamaWeights& weights, const GradientPathInputs& inputs,
                       const AdapterDropout* dropout)
    : lora_(*inputs.lora) {
  for (int64_t i = 0; i < NumLanes(*inputs.recipe); ++i) {
    lanes_.push_back(std::make_unique<Lane>(weights, lora_, dropout, FactorsOf(*inputs.recipe)));
  }
}

void SideBySide::AddGradients(absl::Span<FastModel::MicroBatch> batches) {
  const auto count = static_cast<int64_t>(std::min(lanes_.size(), batches.size()));
  Turns turns;
  at::parallel_for(0, count, 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) Run(*lanes_[static_cast<size_t>(i)], batches, turns);
  });
}

// Products inside run on this thread alone.
void SideBySide::Run(Lane& lane, absl::Span<FastModel::MicroBatch> batches, Turns& turns) const {
  const at::NoGradGuard no_grad;  // of this thread
  lane.model.PackAdapter(lane.slot);
  for (size_t i = turns.begin++; i < batches.size(); i = turns.begin++) {
    float* gradient = lane.gradient.mutable_data_ptr<float>();
    std::fill_n(gradient, lane.gradient.numel(), 0.0f);
    batches[i].slot = lane.slot;
    try {
      lane.model.AddGradients(batches.subspan(i, 1));
    } catch (...) {
      turns.begin = batches.size();
      WaitFor(turns.add, i);
      ++turns.add;
      turns.add.notify_all();
      throw;
    }
    WaitFor(turns.add, i);
    lane.AddGradientTo(lora_);
    ++turns.add;
    turns.add.notify_all();
  }
}

}  // namespace evolora
