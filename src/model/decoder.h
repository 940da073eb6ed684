#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "attention.h"
#include "evolora/core/tokenizer.h"
#include "evolora/model/llama_weights.h"
#include "frozen_matrix.h"
#include "kv_cache.h"
#include "packed_lora.h"

namespace evolora {

struct CompactLayer;

// The decoder over packed weights: any mix of prompt chunks and single tokens, of rows with
// different adapters, in one step. A token's result depends only on its row's earlier tokens, on
// which of them belong to the prompt, and on its row's adapter, bit for bit: not on other rows, on
// how its prompt was cut, or on the number of threads. Not thread-safe (buffers); uses LibTorch's
// threads inside. Throws as LibTorch does.
class Decoder {
 public:
  explicit Decoder(std::shared_ptr<const LlamaWeights> weights, const FrozenOptions& options = {});
  // `base` with other modules (WithModules); what they leave in place is shared.
  Decoder(const Decoder& base, const std::map<std::string, at::Tensor>& modules);

  // The next tokens of one row. Rows with equal adapters should stand together: each run of them
  // is one call per LoRA matrix.
  struct Row {
    absl::Span<const TokenId> ids;     // at least one, in the vocabulary
    KvCache* cache = nullptr;          // room for ids; advanced by the step
    const PackedLora* lora = nullptr;  // null: bare base
    bool of_prompt = false;            // ids are of the prompt: computed as many at once
  };
  // Rows of prompts stand behind the others. Hidden states after the final norm, [total tokens,
  // hidden_size], tokens in row order; valid until the next call.
  const float* Step(absl::Span<const Row> rows);
  // Logits [rows, vocab_size] of hidden rows [rows, hidden_size].
  void Head(const float* hidden, int64_t rows, float* logits) const;

  const LlamaConfig& config() const { return weights_->config; }
  const LlamaWeights& weights() const { return *weights_; }

 private:
  struct Layer {
    FrozenMatrix qkv, o, gate_up, down;
    std::vector<float> qkv_bias;  // empty: none
  };
  static Layer PackTensors(const LlamaLayer& layer, const FrozenOptions& options);
  static Layer PackCompact(const CompactLayer& layer, const FrozenOptions& options);
  // Tokens [begin, begin + count) share one adapter.
  struct AdapterRun {
    const PackedLora* lora;
    int64_t begin;
    int64_t count;
  };
  struct Token {
    KvCache* cache;
    int64_t position;
  };
  // y [M, ..] = or += the matrix times x [M, ldx].
  void Multiply(const FrozenMatrix& matrix, const float* x, int64_t ldx, float* y, int64_t ldy,
                GemmStore store) const;
  void Prepare(absl::Span<const Row> rows);
  void ResizeBuffers(int64_t max_rank);
  void Norm(const at::Tensor& weight, const float* x, float* y) const;
  void RotateAndStore(int64_t layer);
  void AttentionBlock(int64_t layer, const Attention& attention);
  void Mlp(int64_t layer);
  void AddLora(const LoraGroup PackedLora::Layer::*group, int64_t layer, const float* x,
               int64_t ldx, float* y, int64_t ldy);
  FrozenMatrix PackHead() const;
  void Embed(TokenId id, float* x) const;
  void GrowRope(int64_t positions);

  std::shared_ptr<const LlamaWeights> weights_;
  FrozenOptions options_;
  std::vector<Layer> layers_;
  FrozenMatrix head_;
  at::Tensor rope_frequencies_, rope_cos_, rope_sin_;  // tables [positions, head_dim / 2]

  // One step's state; M = tokens of the step.
  int64_t num_tokens_ = 0;
  int64_t num_single_ = 0;  // tokens before those of prompts
  std::vector<Token> tokens_;
  std::vector<AdapterRun> runs_;
  std::vector<float> x_, norm_, qkv_, mixed_, gate_up_, act_, lora_scratch_;
};

}  // namespace evolora
