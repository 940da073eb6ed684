#pragma once

#include <cstdint>

#include "ATen/core/Tensor.h"
#include "device/device_math.h"
#include "device/device_tokens.h"
#include "device/packed_attention.h"
#include "evolora/model/llama_config.h"

namespace evolora {

// Causal attention as plain products in fp32 over a grid of rows and the places of their paths
// (DeviceTokens::own_of_place), and its gradient. Keeps H x L x L values of some rows of L places
// for the time of a call. A place whose token is not the row's own gives no output.
class PlainAttention {
 public:
  // Both outlive the object.
  PlainAttention(const LlamaConfig& config, const DeviceMath& math);

  // How many rows of L places are computed at once, at most.
  static int64_t RowsAtOnce(const LlamaConfig& config, int64_t length);

  // As DeviceAttention's.
  at::Tensor Forward(int64_t window, const DeviceTokens& tokens, const at::Tensor& qkv) const;
  void Backward(int64_t window, const DeviceTokens& tokens, const at::Tensor& qkv,
                const at::Tensor& d_mixed, const at::Tensor& d_qkv) const;

 private:
  // Some rows of L places.
  struct Places {
    int64_t first = 0;  // place of the grid
    int64_t rows = 0;
    at::Tensor tokens;  // [rows * L] int64, N where there is none
    at::Tensor own;     // [rows * L] int64, N where there is none of the row's own
  };
  template <typename Body>
  void ForPlaces(const DeviceTokens& tokens, const Body& body) const;
  at::Tensor Gathered(const at::Tensor& values, const at::Tensor& tokens) const;
  AttentionHeads PlaceHeads(const at::Tensor& qkv, int64_t rows) const;
  at::Tensor ByKeyHead(const at::Tensor& values, int64_t rows) const;
  at::Tensor ByPlace(const at::Tensor& heads, int64_t rows, int64_t length) const;
  at::Tensor Probabilities(int64_t window, const AttentionHeads& heads) const;
  AttentionHeads Gradient(int64_t window, const at::Tensor& qkv, const at::Tensor& d_mixed,
                          int64_t rows) const;

  const LlamaConfig& config_;
  const DeviceMath& math_;
  double scale_;
};

}  // namespace evolora
