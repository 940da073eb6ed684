#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"

namespace evolora {

enum class RopeScaling { kNone, kLinear, kLlama3 };

// Hyper-parameters of a Llama-family decoder, in Hugging Face's terms.
struct LlamaConfig {
  std::string architecture;  // llama, mistral, qwen2, qwen3
  int64_t vocab_size = 0;
  int64_t hidden_size = 0;
  int64_t intermediate_size = 0;
  int64_t num_layers = 0;
  int64_t num_heads = 0;
  int64_t num_kv_heads = 0;
  int64_t head_dim = 0;       // may differ from hidden_size / num_heads
  int64_t max_positions = 0;  // context length
  double rms_norm_eps = 1e-5;
  double rope_theta = 10000;
  RopeScaling rope_scaling = RopeScaling::kNone;
  double rope_factor = 1;               // linear and llama3
  double rope_low_freq_factor = 1;      // llama3
  double rope_high_freq_factor = 4;     // llama3
  int64_t rope_original_positions = 0;  // llama3
  // Divisors of the inverse frequencies, [head_dim / 2], applied after the scaling above; empty =
  // none. GGUF files of Llama 3 carry their scaling in this form (tensor rope_freqs.weight).
  std::vector<double> rope_freq_factors;
  bool tied_head = false;      // the head is the embedding matrix
  bool qkv_bias = false;       // Qwen2; also attention_bias of Llama
  bool output_bias = false;    // o_proj bias (attention_bias of Llama)
  bool qk_norm = false;        // Qwen3: RMSNorm per head on q and k, before RoPE
  int64_t sliding_window = 0;  // 0 = full attention; a token sees itself and window - 1 before it
  // Layers that use the window; empty = all of them (when sliding_window > 0).
  std::vector<bool> layer_uses_window;

  friend bool operator==(const LlamaConfig&, const LlamaConfig&) = default;
};

// Every size in range, heads divisible, finite positive theta and eps.
// InvalidArgument names the key and the number. Upper limits keep a corrupt file from asking for
// absurd memory: 1024 layers, 4M vocabulary, 1M positions * 64, widths of 1M.
absl::Status ValidateLlamaConfig(const LlamaConfig& config);

// Attention window of one layer in tokens, 0 = full attention.
int64_t LayerWindow(const LlamaConfig& config, int64_t layer);

// Parameters of the base without adapters; a tied head is counted once.
int64_t CountParameters(const LlamaConfig& config);

// FLOPs of one token through the decoder layers (2 per multiply-add), attention over `context`
// earlier tokens included, head excluded; and of the head for one row.
double LayerFlopsPerToken(const LlamaConfig& config, int64_t context);
double HeadFlopsPerRow(const LlamaConfig& config);

}  // namespace evolora
