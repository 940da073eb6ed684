#pragma once

#include <cstdint>
#include <vector>

#include "adapted_group.h"
#include "evolora/model/buffer.h"
#include "evolora/model/llama_weights.h"
#include "evolora/model/lora_tensors.h"
#include "lowest_stage.h"
#include "token_layout.h"
#include "tree_attention.h"

namespace evolora {

// What one layer leaves for its backward pass.
struct LayerKept {
  Buffer unit1, factor1;      // of the first norm: [N, D], [N]
  Buffer qkv;                 // [N, (H + 2 K) E], as attention reads it
  Buffer qk_unit, qk_factor;  // of the norms of q and k: [N, (H + K) E], [N, H + K]
  TreeAttention::Kept attention;
  Buffer mixed;           // [M, H E]
  Buffer unit2, factor2;  // of the second norm: [M, D], [M]
  Buffer gate_up;         // [M, 2 F]; becomes its own gradient
  AdaptedGroup::Kept qkv_group, out_group, gate_up_group, down_group;
};

// What layers share, one after the other.
struct LayerScratch {
  explicit LayerScratch(const LlamaConfig& config) : attention(config) {}
  TreeAttention attention;
  Buffer norm;        // [N, D]
  Buffer act, d_act;  // [M, F]
  Buffer mixed;       // [N, H E]: of a layer that goes on with some of its tokens
  Buffer d_mixed, d_qkv;
  Buffer delta;  // [N, H]: TreeAttention::Delta
  Buffer d_low;
  Buffer gradient;  // what a group works with
};

// The tokens of a pass. N all of them; M those that go on after attention: all, or in the last
// layer those that predict something.
struct LayerTokens {
  const TokenLayout* layout = nullptr;
  const float* cos = nullptr;  // RoPE tables by position, [.., E / 2]
  const float* sin = nullptr;
  const float* minus_sin = nullptr;
  bool only_predicting = false;
  // Whose the N and the M tokens are; those of no adapter go through the frozen layers alone.
  absl::Span<const AdapterRun> runs;
  absl::Span<const AdapterRun> runs_on;
  int64_t num_all() const { return static_cast<int64_t>(layout->ids.size()); }
  int64_t num_on() const {
    return only_predicting ? static_cast<int64_t>(layout->predicting.size()) : num_all();
  }
};

// One decoder layer with any number of adapters, forward and by hand backward, in the formulas of
// reference_forward.cc.
class FastLayer {
 public:
  // Layer `index` of `weights`, which outlive the object. Weights that require a gradient are
  // trained, too: norms, or all of the layer. `factors`: of the products of its linear layers.
  FastLayer(const LlamaWeights& weights, int64_t index, Factors factors);

  // As AdaptedGroup's.
  void Add(int64_t slot, const LoraTensors& lora, const AdapterDropout* dropout);
  void Remove(int64_t slot);
  void PackAdapter(int64_t slot);
  // With the adapter in this slot.
  TrainedParts trained_parts(int64_t slot) const;

  // x [N, D] in, [M, D] out, in place.
  void Forward(const LayerTokens& tokens, float* x, LayerKept& kept, LayerScratch& scratch) const;

  // dx: gradient of the output [M, D] in, of the input [N, D] out, in place (room for N rows).
  // Gradients of the adapters and of trained weights are added. `last` is the lowest stage that one
  // of them adapts when that is in this layer: the pass ends there and dx is then of no use; kQkv
  // with `through` = go through.
  struct Until {
    Stage last = Stage::kQkv;
    bool through = true;
  };
  void Backward(const LayerTokens& tokens, const Until& until, float* dx, LayerKept& kept,
                LayerScratch& scratch) const;

 private:
  bool trains_head_norms() const;
  bool trains_linear() const { return !qkv_.empty() && qkv_.front().requires_grad(); }
  void AddGateUpGradients(const float* d_wide, int64_t rows, const LayerKept& kept,
                          LayerScratch& scratch) const;
  void AddQkvGradients(const float* d_qkv, int64_t rows, const LayerKept& kept,
                       LayerScratch& scratch) const;
  const AdaptedGroup& group(Stage stage) const { return groups_[static_cast<size_t>(stage)]; }
  void Norm(const at::Tensor& weight, const float* x, int64_t rows, float* unit, float* factors,
            float* y) const;
  void NormBackward(const at::Tensor& weight, const float* dy, const float* unit,
                    const float* factors, int64_t rows, float* dx) const;
  void FinishQkv(const LayerTokens& tokens, LayerKept& kept) const;
  void FinishQkvBackward(const LayerTokens& tokens, const LayerKept& kept, float* d_qkv) const;
  void AttentionForward(const LayerTokens& tokens, float* x, LayerKept& kept,
                        LayerScratch& scratch) const;
  void MlpForward(const LayerTokens& tokens, float* x, LayerKept& kept,
                  LayerScratch& scratch) const;
  bool MlpBackward(int64_t rows, const Until& until, float* dx, LayerKept& kept,
                   LayerScratch& scratch) const;
  bool OutBackward(int64_t rows, const Until& until, const float* dx, LayerKept& kept,
                   LayerScratch& scratch) const;
  void QkvBackward(const LayerTokens& tokens, const Until& until, float* dx, LayerKept& kept,
                   LayerScratch& scratch) const;

  const LlamaConfig& config_;
  const LlamaLayer& weights_;
  int64_t index_;
  std::vector<AdaptedGroup> groups_;                    // by Stage
  std::vector<at::Tensor> qkv_, out_, gate_up_, down_;  // the weights of each; of few bits: none
  std::vector<float> qkv_bias_;                         // empty: none
};

}  // namespace evolora
