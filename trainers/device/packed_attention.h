#pragma once

#include <cstdint>
#include <memory>

#include "ATen/core/Tensor.h"
#include "device/device_math.h"
#include "evolora/model/llama_config.h"

namespace evolora {

// Heads of all tokens, each [tokens, heads, E]; the last dimension is contiguous, tokens may be
// further apart.
struct AttentionHeads {
  at::Tensor q, k, v;
};

// Causal attention over packed sequences, as flash attention computes it. Sequence s has the
// queries q_begin[s] .. q_begin[s + 1] - 1 and the keys k_begin[s] .. k_begin[s + 1] - 1, at least
// as many: its last query sees all of them, the one before it all but the last, and so on.
class PackedAttention {
 public:
  virtual ~PackedAttention() = default;

  struct Sequences {
    at::Tensor q_begin, k_begin;  // [S + 1] int32
    int64_t longest = 0;          // no sequence has more queries or keys
    double scale = 1;             // of the scores
    int64_t window = 0;           // keys that a query sees at most, the last ones; 0: all
  };
  // What Forward leaves for Backward.
  struct Kept {
    at::Tensor mixed;  // [queries, H, E]
    at::Tensor logsumexp, rng_state, unused;
  };
  virtual Kept Forward(const Sequences& sequences, const AttentionHeads& heads) const = 0;
  // Gradients in the sizes of `heads`, contiguous. That of a key which is of no sequence is not
  // written.
  virtual AttentionHeads Backward(const Sequences& sequences, const AttentionHeads& heads,
                                  const Kept& kept, const at::Tensor& d_mixed) const = 0;
};

// Whether LibTorch's flash attention computes with these heads on a device: not on the CPU, in
// fp32, or with heads of another width than a multiple of 8 up to 192.
bool FlashComputes(const LlamaConfig& config, bool is_cuda, at::ScalarType dtype);

// It, with gradients that are added up in one order; null where it does not compute.
std::shared_ptr<const PackedAttention> MakeFlashAttention(const LlamaConfig& config,
                                                          const DeviceMath& math);

}  // namespace evolora
