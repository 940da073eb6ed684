#pragma once

#include <cstdint>
#include <vector>

#include "adapted_group.h"
#include "buffer.h"
#include "evolora/model/llama_weights.h"
#include "evolora/model/lora_tensors.h"
#include "token_layout.h"
#include "tree_attention.h"

namespace evolora {

// The four places of a decoder layer that can carry adapters, in the order of the forward pass.
enum class Stage { kQkv, kOut, kGateUp, kDown };
constexpr int64_t kStagesPerLayer = 4;

// What one layer leaves for its backward pass.
struct LayerKept {
  Buffer unit1, factor1;      // of the first norm: [N, D], [N]
  Buffer qkv;                 // [N, (H + 2 K) E], as attention reads it
  Buffer qk_unit, qk_factor;  // of the norms of q and k: [N, (H + K) E], [N, H + K]
  Buffer mixed;               // [M, H E]
  Buffer unit2, factor2;      // of the second norm: [M, D], [M]
  Buffer gate_up;             // [M, 2 F]; becomes its own gradient
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
  // Keys of the N and of the M tokens for dropout; null: nothing is dropped.
  const uint64_t* dropout_keys = nullptr;
  const uint64_t* dropout_keys_on = nullptr;
  bool bare = false;  // forward only: as if no adapter were there
  int64_t num_all() const { return static_cast<int64_t>(layout->ids.size()); }
  int64_t num_on() const {
    return only_predicting ? static_cast<int64_t>(layout->predicting.size()) : num_all();
  }
};

// One decoder layer, forward and by hand backward, in the formulas of reference_forward.cc.
class FastLayer {
 public:
  // `weights`, `lora` and `dropout` (null: none) outlive the object.
  FastLayer(const LlamaWeights& weights, const LoraTensors& lora, int64_t index,
            const AdapterDropout* dropout = nullptr);

  bool adapted(Stage stage) const { return group(stage).adapted(); }
  void PackAdapters();

  // x [N, D] in, [M, D] out, in place.
  void Forward(const LayerTokens& tokens, float* x, LayerKept& kept, LayerScratch& scratch) const;

  // dx: gradient of the output [M, D] in, of the input [N, D] out, in place (room for N rows).
  // Gradients of the adapters are added. `last` is the lowest stage that has adapters when that is
  // in this layer: the pass ends there and dx is then of no use; kQkv with `through` = go through.
  struct Until {
    Stage last = Stage::kQkv;
    bool through = true;
  };
  void Backward(const LayerTokens& tokens, const Until& until, float* dx, LayerKept& kept,
                LayerScratch& scratch) const;

 private:
  const AdaptedGroup& group(Stage stage) const { return groups_[static_cast<size_t>(stage)]; }
  void Norm(const at::Tensor& weight, const float* x, int64_t rows, float* unit, float* factors,
            float* y) const;
  void NormBackward(const at::Tensor& weight, const float* dy, const float* unit,
                    const float* factors, int64_t rows, float* dx) const;
  // group(stage) forward, with its adapters unless the tokens go bare.
  void Linear(Stage stage, const LayerTokens& tokens, const float* x, int64_t rows, float* y,
              GemmStore store, AdaptedGroup::Kept& kept, Buffer& room) const;
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
  std::vector<AdaptedGroup> groups_;  // by Stage
  std::vector<float> qkv_bias_;       // empty: none
};

}  // namespace evolora
