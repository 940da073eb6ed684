#pragma once

#include <string>
#include <utility>
#include <vector>

#include "ATen/core/Tensor.h"
#include "evolora/model/llama_config.h"

namespace evolora {

// Weights of one decoder layer, fp32, CPU, contiguous, in Hugging Face's order and orientation
// (linear weights are [out, in]; q and k rows are in rotate-half order, whatever the file held).
// Undefined tensors: parts the architecture does not have.
struct LlamaLayer {
  at::Tensor input_norm;  // [D]
  at::Tensor post_norm;   // [D]
  at::Tensor q, k, v, o;  // [Hq*Dh, D], [Hk*Dh, D], [Hk*Dh, D], [D, Hq*Dh]
  at::Tensor q_bias, k_bias, v_bias, o_bias;
  at::Tensor q_norm, k_norm;  // [Dh]
  at::Tensor gate, up, down;  // [F, D], [F, D], [D, F]
};

// All weights of a base. Frozen: nothing writes to them after loading, so they may be shared by
// threads. The head is the same storage as the embedding when the config says so.
struct LlamaWeights {
  LlamaConfig config;
  at::Tensor embedding;  // [V, D]
  std::vector<LlamaLayer> layers;
  at::Tensor final_norm;  // [D]
  at::Tensor head;        // [V, D]
};

// One tensor of a base under its Hugging Face name ("model.layers.0.mlp.up_proj.weight"); shares
// storage with the weights.
struct NamedTensor {
  std::string name;
  at::Tensor tensor;
};

// Names and shapes of all tensors a base with this config has, sorted by name (bytes). A tied head
// is not listed. REQUIRES: ValidateLlamaConfig(config) is OK.
struct NamedShape {
  std::string name;
  std::vector<int64_t> shape;
};
std::vector<NamedShape> TensorShapes(const LlamaConfig& config);

// The tensors themselves, in the order of TensorShapes.
std::vector<NamedTensor> NamedTensors(const LlamaWeights& weights);

// Weights whose tensors are allocated (fp32, CPU) but not filled, in the order of TensorShapes in
// `tensors`: for loaders. Throws as LibTorch does.
struct BlankWeights {
  LlamaWeights weights;
  std::vector<NamedTensor> tensors;
};
BlankWeights AllocateWeights(const LlamaConfig& config);

// The weight of one linear layer by its Hugging Face module path ("model.layers.3.mlp.up_proj"),
// or an undefined tensor when there is none.
at::Tensor FindLinear(const LlamaWeights& weights, const std::string& module_path);

// The biases of q, k and v one after the other, [(Hq + 2 Hk) Dh]; empty where a layer has none.
std::vector<float> JoinedQkvBias(const LlamaLayer& layer);

// [out_features, in_features] of the linear layer at `module_path`, or {0, 0} when the config has
// no such layer. The head ("lm_head") is not a linear layer in this sense.
std::pair<int64_t, int64_t> LinearShape(const LlamaConfig& config, const std::string& module_path);

// Paths of all linear layers of the decoder (what "all-linear" means: every one but the head), in
// layer order, q k v o gate up down within a layer.
std::vector<std::string> LinearModulePaths(const LlamaConfig& config);

}  // namespace evolora
