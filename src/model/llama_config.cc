#include "evolora/model/llama_config.h"

#include <cmath>
#include <set>

#include "absl/strings/str_cat.h"
#include "evolora/core/status_macros.h"

namespace evolora {
namespace {

absl::Status CheckRange(const char* key, int64_t value, int64_t min, int64_t max) {
  if (value >= min && value <= max) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("config: ", key, " = ", value, " is not in [", min, ", ", max, "]"));
}

absl::Status CheckPositive(const char* key, double value, double max) {
  if (std::isfinite(value) && value > 0 && value <= max) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("config: ", key, " = ", value, " is not in (0, ", max, "]"));
}

absl::Status CheckSizes(const LlamaConfig& c) {
  constexpr int64_t kMaxWidth = 1 << 20;
  RETURN_IF_ERROR(CheckRange("vocab_size", c.vocab_size, 2, 4 << 20));
  RETURN_IF_ERROR(CheckRange("hidden_size", c.hidden_size, 1, kMaxWidth));
  RETURN_IF_ERROR(CheckRange("intermediate_size", c.intermediate_size, 1, kMaxWidth));
  RETURN_IF_ERROR(CheckRange("num_hidden_layers", c.num_layers, 1, 1024));
  RETURN_IF_ERROR(CheckRange("num_attention_heads", c.num_heads, 1, 4096));
  RETURN_IF_ERROR(CheckRange("num_key_value_heads", c.num_kv_heads, 1, c.num_heads));
  RETURN_IF_ERROR(CheckRange("head_dim", c.head_dim, 2, 4096));
  RETURN_IF_ERROR(CheckRange("max_position_embeddings", c.max_positions, 1, int64_t{64} << 20));
  RETURN_IF_ERROR(CheckRange("sliding_window", c.sliding_window, 0, int64_t{64} << 20));
  if (c.num_heads % c.num_kv_heads != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("config: num_attention_heads = ", c.num_heads,
                     " is not a multiple of num_key_value_heads = ", c.num_kv_heads));
  }
  if (c.head_dim % 2 != 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("config: head_dim = ", c.head_dim, " is odd; RoPE needs pairs"));
  }
  return absl::OkStatus();
}

absl::Status CheckRope(const LlamaConfig& c) {
  RETURN_IF_ERROR(CheckPositive("rope_theta", c.rope_theta, 1e15));
  if (c.rope_scaling != RopeScaling::kNone) {
    RETURN_IF_ERROR(CheckPositive("rope factor", c.rope_factor, 1e6));
  }
  if (c.rope_scaling == RopeScaling::kLlama3) {
    RETURN_IF_ERROR(CheckPositive("low_freq_factor", c.rope_low_freq_factor, 1e6));
    RETURN_IF_ERROR(CheckPositive("high_freq_factor", c.rope_high_freq_factor, 1e6));
    RETURN_IF_ERROR(CheckRange("original_max_position_embeddings", c.rope_original_positions, 1,
                               int64_t{64} << 20));
    if (c.rope_high_freq_factor <= c.rope_low_freq_factor) {
      return absl::InvalidArgumentError(
          absl::StrCat("config: high_freq_factor = ", c.rope_high_freq_factor,
                       " is not above low_freq_factor = ", c.rope_low_freq_factor));
    }
  }
  const size_t num_pairs = static_cast<size_t>(c.head_dim / 2);
  if (!c.rope_freq_factors.empty() && c.rope_freq_factors.size() != num_pairs) {
    return absl::InvalidArgumentError(absl::StrCat("config: ", c.rope_freq_factors.size(),
                                                   " rope frequency factors for ", num_pairs,
                                                   " pairs"));
  }
  for (double factor : c.rope_freq_factors) {
    RETURN_IF_ERROR(CheckPositive("rope frequency factor", factor, 1e6));
  }
  return absl::OkStatus();
}

int64_t LinearParameters(const LlamaConfig& c) {
  const int64_t q = c.num_heads * c.head_dim;
  const int64_t kv = c.num_kv_heads * c.head_dim;
  return c.hidden_size * (2 * q + 2 * kv) + 3 * c.hidden_size * c.intermediate_size;
}

}  // namespace

absl::Status ValidateLlamaConfig(const LlamaConfig& config) {
  static const std::set<std::string>* const kKnown =
      new std::set<std::string>{"llama", "mistral", "qwen2", "qwen3"};
  if (kKnown->count(config.architecture) == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("config: unknown architecture \"", config.architecture, "\""));
  }
  RETURN_IF_ERROR(CheckSizes(config));
  RETURN_IF_ERROR(CheckPositive("rms_norm_eps", config.rms_norm_eps, 1));
  RETURN_IF_ERROR(CheckRope(config));
  const auto num_flags = static_cast<int64_t>(config.layer_uses_window.size());
  if (num_flags != 0 && num_flags != config.num_layers) {
    return absl::InvalidArgumentError(
        absl::StrCat("config: ", num_flags, " window flags for ", config.num_layers, " layers"));
  }
  return absl::OkStatus();
}

int64_t LayerWindow(const LlamaConfig& config, int64_t layer) {
  if (config.layer_uses_window.empty()) return config.sliding_window;
  return config.layer_uses_window[static_cast<size_t>(layer)] ? config.sliding_window : 0;
}

int64_t CountParameters(const LlamaConfig& c) {
  const int64_t q = c.num_heads * c.head_dim;
  const int64_t kv = c.num_kv_heads * c.head_dim;
  int64_t per_layer = LinearParameters(c) + 2 * c.hidden_size;
  if (c.qkv_bias) per_layer += q + 2 * kv;
  if (c.output_bias) per_layer += c.hidden_size;
  if (c.qk_norm) per_layer += 2 * c.head_dim;
  const int64_t heads = c.tied_head ? 1 : 2;
  return heads * c.vocab_size * c.hidden_size + c.num_layers * per_layer + c.hidden_size;
}

double LayerFlopsPerToken(const LlamaConfig& c, int64_t context) {
  const double linear = 2.0 * static_cast<double>(LinearParameters(c));
  double attended = 0;
  for (int64_t layer = 0; layer < c.num_layers; ++layer) {
    const int64_t window = LayerWindow(c, layer);
    attended += static_cast<double>(window > 0 ? std::min(context + 1, window) : context + 1);
  }
  const double per_position = 4.0 * static_cast<double>(c.num_heads * c.head_dim);
  return static_cast<double>(c.num_layers) * linear + attended * per_position;
}

double HeadFlopsPerRow(const LlamaConfig& c) {
  return 2.0 * static_cast<double>(c.vocab_size) * static_cast<double>(c.hidden_size);
}

}  // namespace evolora
