#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "absl/strings/string_view.h"
#include "token_layout.h"

namespace evolora {

// Dropout of what the adapters read: A (x * f) takes the place of A x, f = 0 with probability
// `rate` and 1 / (1 - rate) otherwise, drawn for each feature of each token of each adapted layer.
// The frozen layers read x. This is PEFT's lora_dropout.
//
// f is a function of (seed, step, module, row, copy, position, feature): nothing is kept, the
// backward pass computes it again, both gradient paths have the same bits, and it depends neither
// on micro-batches nor on threads nor on an interruption.
//
// Shared prefixes: with dropout on, the fast path shares none. The tokens of a prefix then have
// different hidden states in each row, as they have in PEFT; one mask for all rows would leave the
// expectation of the gradient as it is but tie the noise of the rows together.
class AdapterDropout {
 public:
  // 0 < rate < 1, kept to 2^-32.
  AdapterDropout(double rate, uint64_t seed);

  // The stream of one adapted layer, by its path.
  uint64_t ModuleKey(absl::string_view path) const;
  // y[i] = x[i] * f[i] for the n features of one token; y may be x.
  void Mask(uint64_t module_key, uint64_t token_key, int64_t n, const float* x, float* y) const;
  // A feature is dropped when its 32 bits (evolora/device/dropout_draw.h) are below the threshold.
  uint64_t threshold() const { return threshold_; }
  float kept() const { return kept_; }  // what the others are multiplied with
  // y[i] += x[i] * f[i].
  void AddMasked(uint64_t module_key, uint64_t token_key, int64_t n, const float* x,
                 float* y) const;

 private:
  uint64_t seed_;
  uint64_t threshold_;
  float kept_;
};

// One token of one optimiser step (from 0): `row` is the index of its training row, `copy` counts
// equal indices within the step (from 0; of several ranks each counts its own), `position` is its
// place in the row.
uint64_t DropoutTokenKey(int64_t step, int64_t row, int64_t copy, int64_t position);

// Those of the tokens of a layout without shared prefixes. `copies` counts the step's rows so far,
// by index; these are added.
std::vector<uint64_t> DropoutTokenKeys(int64_t step, const TokenLayout& layout,
                                       std::unordered_map<int64_t, int64_t>& copies);

}  // namespace evolora
