#pragma once

#include <cstdint>

#include "ATen/core/Tensor.h"
#include "device/device_math.h"
#include "device/device_tokens.h"
#include "evolora/model/llama_config.h"

namespace evolora {

// Causal attention over packed rows, and its gradient. q, k and v stand side by side in a row of
// `qkv` [N, (H + 2 K) E], after RoPE; H / K query heads share a key head. On CUDA in bf16, with
// heads of at most 192 and a multiple of 8 values, LibTorch's flash attention over all rows at
// once; else plain products in fp32 over rows that are filled up to the longest one, which keep
// H x L x L values of some rows of L places for the time of a call.
class DeviceAttention {
 public:
  // Both outlive the object.
  DeviceAttention(const LlamaConfig& config, const DeviceMath& math);

  // Whether the tokens need token_of_place.
  bool is_plain() const { return !flash_; }

  // What the forward pass leaves; flash attention only.
  struct Kept {
    at::Tensor mixed, logsumexp, rng_state, unused;
  };

  // Returns mixed [N, H E].
  at::Tensor Forward(int64_t layer, const DeviceTokens& tokens, const at::Tensor& qkv,
                     Kept& kept) const;
  // Writes d_qkv [N, (H + 2 K) E] from d_mixed [N, H E].
  void Backward(int64_t layer, const DeviceTokens& tokens, const at::Tensor& qkv, const Kept& kept,
                const at::Tensor& d_mixed, const at::Tensor& d_qkv) const;

 private:
  struct Heads {
    at::Tensor q, k, v;
  };
  // Some rows of L places: where their tokens are, and which places have one.
  struct Places {
    int64_t rows = 0;
    at::Tensor tokens;   // [rows * L] int64, N where there is none
    at::Tensor present;  // [rows * L, 1]
  };
  Heads Split(const at::Tensor& qkv) const;
  template <typename Body>
  void ForPlaces(const DeviceTokens& tokens, const Body& body) const;
  at::Tensor Gathered(const at::Tensor& values, const Places& places) const;
  Heads PlaceHeads(const at::Tensor& qkv, int64_t rows) const;
  at::Tensor ByKeyHead(const at::Tensor& values, int64_t rows) const;
  at::Tensor ByPlace(const at::Tensor& heads, int64_t rows, int64_t length) const;
  at::Tensor Probabilities(int64_t layer, const Heads& heads) const;
  at::Tensor PlainForward(int64_t layer, const DeviceTokens& tokens, const at::Tensor& qkv) const;
  at::Tensor PlainGradient(int64_t layer, const at::Tensor& qkv, const at::Tensor& d_mixed,
                           int64_t rows) const;
  void PlainBackward(int64_t layer, const DeviceTokens& tokens, const at::Tensor& qkv,
                     const at::Tensor& d_mixed, const at::Tensor& d_qkv) const;

  const LlamaConfig& config_;
  const DeviceMath& math_;
  double scale_;
  bool flash_;
};

}  // namespace evolora
