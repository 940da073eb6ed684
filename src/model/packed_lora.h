#pragma once

#include <cstdint>
#include <vector>

#include "evolora/model/llama_weights.h"
#include "evolora/model/lora_tensors.h"
#include "evolora/model/packed_matrix.h"

namespace evolora {

// Adapted layers that read the same input: A matrices stacked into one, B matrices apart (scaled).
// Of a module with magnitude m, whose rows of W + scale B A have the norms n: B times m / n, and
// (m / n - 1) W as a matrix of W's size.
class LoraGroup {
 public:
  // One output part: where it lands in a row of y.
  struct Part {
    std::string path;
    int64_t out_offset;
  };
  LoraGroup() = default;
  LoraGroup(const LlamaWeights& base, const LoraTensors& lora, const std::vector<Part>& parts);

  int64_t total_rank() const { return a_.out_features(); }
  // Turns the base's outputs y[m] += W x[m] into the adapted ones, for each part. `scratch` has
  // room for rows * total_rank() floats.
  void ApplyAdd(const float* x, int64_t ldx, int64_t rows, float* y, int64_t ldy,
                float* scratch) const;

 private:
  struct PackedPart {
    PackedMatrix b;
    PackedMatrix frozen;  // empty without magnitude
    int64_t rank_offset;
    int64_t out_offset;
  };
  PackedMatrix a_;
  std::vector<PackedPart> parts_;
};

// A LoRA adapter packed for the engine. Immutable.
struct PackedLora {
  struct Layer {
    LoraGroup qkv, o, gate_up, down;
  };
  PackedLora(const LlamaWeights& base, const LoraTensors& lora);

  std::vector<Layer> layers;
  int64_t max_rank = 0;        // largest total rank of a group
  double flops_per_token = 0;  // of all modules
};

}  // namespace evolora
