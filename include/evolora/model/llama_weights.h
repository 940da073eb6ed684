#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "ATen/core/Tensor.h"
#include "evolora/model/llama_config.h"

namespace evolora {

struct CompactWeights;  // compact_weights.h

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
  // Not null: embedding, head and the linear weights of the layers are undefined above and lie here
  // in few bits (but see WithModules). For training and the engine; what takes weights and does not
  // say so refuses or throws.
  std::shared_ptr<const CompactWeights> compact;
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
// `tensors`: for loaders. kVectors: norms and biases alone. Throws as LibTorch does.
struct BlankWeights {
  LlamaWeights weights;
  std::vector<NamedTensor> tensors;
};
enum class WeightParts { kAll, kVectors };
BlankWeights AllocateWeights(const LlamaConfig& config, WeightParts parts = WeightParts::kAll);

// The weight of one linear layer by its Hugging Face module path ("model.layers.3.mlp.up_proj"),
// or an undefined tensor when there is none. Of weights in few bits a copy.
at::Tensor FindLinear(const LlamaWeights& weights, const std::string& module_path);

// The biases of q, k and v one after the other, [(Hq + 2 Hk) Dh]; empty where a layer has none.
std::vector<float> JoinedQkvBias(const LlamaLayer& layer);

// [out_features, in_features] of the linear layer at `module_path`, or {0, 0} when the config has
// no such layer. The head ("lm_head") is not a linear layer in this sense.
std::pair<int64_t, int64_t> LinearShape(const LlamaConfig& config, const std::string& module_path);

// The modules that an adapter may replace as a whole: the embedding, the head (a tied one, too: it
// is then no longer the embedding's) and the norms, by module path ("model.norm") with the shapes
// of their weights, sorted.
std::vector<NamedShape> ReplaceableModules(const LlamaConfig& config);

// The weight of one of them in fp32; undefined when there is none. Of weights in few bits a copy.
at::Tensor FindReplaceable(const LlamaWeights& weights, const std::string& module_path);

// `weights` with these weights in the place of theirs; the rest is shared. Beside `compact`, an
// embedding or head that is defined is the one that counts.
LlamaWeights WithModules(const LlamaWeights& weights,
                         const std::map<std::string, at::Tensor>& by_module_path);

// Weights made of these tensors, by their names as in TensorShapes. REQUIRES: none is missing.
LlamaWeights WithTensors(const LlamaConfig& config,
                         const std::map<std::string, at::Tensor>& by_name);

// The same weights in another floating type (a tied head stays the embedding). REQUIRES:
// !weights.compact.
LlamaWeights CastCopy(const LlamaWeights& weights, at::ScalarType dtype);

// Paths of all linear layers of the decoder (what "all-linear" means: every one but the head), in
// layer order, q k v o gate up down within a layer.
std::vector<std::string> LinearModulePaths(const LlamaConfig& config);

}  // namespace evolora
