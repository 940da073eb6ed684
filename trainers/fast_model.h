#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "ATen/core/Tensor.h"
#include "absl/types/span.h"
#include "adapter_dropout.h"
#include "evolora/model/buffer.h"
#include "evolora/model/llama_weights.h"
#include "evolora/model/lora_tensors.h"
#include "fast_head.h"
#include "fast_layer.h"
#include "loss.h"
#include "lowest_stage.h"
#include "token_layout.h"

namespace evolora {

// A frozen base with any number of adapters, and the memory of their passes. Micro-batches of
// several adapters go through the frozen layers together; what comes out for one of them has the
// bits that it has alone. Not thread-safe; a pass uses all threads.
class FastModel {
 public:
  // `base` outlives the object; its weights are read where they lie, at every pass. Where its
  // embedding, head or norms require a gradient, or all of its weights do, they are trained with
  // the one adapter there is. `factors`: of the products of linear layers, adapters and head.
  explicit FastModel(const LlamaWeights& base, Factors factors = Fp32Factors());

  // Gives an adapter a slot. `lora` and `dropout` (null: none) outlive its stay.
  int64_t Add(const LoraTensors& lora, const AdapterDropout* dropout);
  void Remove(int64_t slot);
  // Takes over the adapter's present values, and trained biases: before its first pass and after
  // every update.
  void PackAdapter(int64_t slot);

  // Some rows of one adapter.
  struct MicroBatch {
    int64_t slot = 0;
    TokenLayout layout;  // with a target at least
    // Keys of its tokens, and of those that predict; empty: nothing is dropped.
    std::vector<uint64_t> dropout_keys, predicting_keys;
    Loss* loss = nullptr;
    double factor = 1;
    double loss_sum = 0;  // out
    int64_t num_tokens() const { return static_cast<int64_t>(layout.ids.size()); }
  };
  // One pass. Adds d(loss_sum * factor) / d parameter to the gradient tensors of each batch's
  // adapter and gives each batch's loss_sum. Batches of one adapter add in their order.
  void AddGradients(absl::Span<MicroBatch> batches);

  // The hidden states of layout.predicting after the final norm, [M, D], without dropout; nullopt:
  // without adapter. Valid until the next pass.
  const float* FinalHidden(const TokenLayout& layout, std::optional<int64_t> slot);

  const LlamaConfig& config() const { return config_; }
  FastHead& head() { return head_; }

 private:
  // What one pass goes through the layers with.
  struct Pass {
    const TokenLayout* layout = nullptr;
    std::vector<AdapterRun> runs, runs_on;
    Lowest lowest;
  };
  Lowest LowestOf(int64_t slot) const;
  Pass MakePass(absl::Span<const MicroBatch> batches, TokenLayout& joined) const;
  LayerKept& Kept(const Pass& pass, int64_t layer);
  LayerTokens Tokens(const Pass& pass, int64_t layer) const;
  void GrowRope(int64_t positions);
  const float* HiddenOf(const Pass& pass);
  void Forward(const Pass& pass);
  void Head(const Pass& pass, absl::Span<MicroBatch> batches, const float* hidden);
  void Backward(const Pass& pass);
  void Embed(TokenId id, float* x) const;
  void AddEmbeddingGradient(const TokenLayout& layout, float* gradient) const;

  const LlamaWeights& base_;
  const LlamaConfig& config_;
  std::vector<FastLayer> layers_;
  std::vector<std::optional<Lowest>> slots_;  // where each adapter begins; nullopt: free
  FastHead head_;
  std::vector<LayerKept> kept_;  // from a pass' lowest layer on
  LayerScratch scratch_;
  Buffer x_;                                   // [N, D]: the residual stream, then its gradient
  Buffer unit_, factors_, hidden_, d_hidden_;  // of the final norm and the head, [M, ..]
  at::Tensor rope_frequencies_, rope_cos_, rope_sin_, rope_minus_sin_;  // by position
};

}  // namespace evolora
