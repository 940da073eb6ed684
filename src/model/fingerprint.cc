#include <atomic>
#include <vector>

#include "ATen/Parallel.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "evolora/adapters/tensor_file.h"
#include "evolora/core/sha256.h"
#include "evolora/model/base_model.h"
#include "evolora/model/llama_weights.h"
#include "evolora/model/rope.h"
#include "evolora/model/torch_status.h"

namespace evolora {
namespace {

std::string BytesDigest(const at::Tensor& tensor) {
  return Sha256()
      .Update(tensor.const_data_ptr<float>(), static_cast<size_t>(tensor.numel()) * sizeof(float))
      .FinishHex();
}

// What the function needs beside the tensors. eps as the fp32 value that is added.
std::string FunctionLine(const LlamaConfig& c) {
  std::string windows;
  for (int64_t i = 0; i < c.num_layers; ++i) absl::StrAppend(&windows, ",", LayerWindow(c, i));
  return absl::StrFormat("function %d %d %a %d%d%d%d%s %s\n", c.num_heads, c.num_kv_heads,
                         static_cast<float>(c.rms_norm_eps), c.qkv_bias, c.output_bias, c.qk_norm,
                         c.tied_head, windows, BytesDigest(RopeInverseFrequencies(c)));
}

}  // namespace

std::string ShapeFingerprint(const LlamaConfig& config) {
  Sha256 digest;
  for (const NamedShape& tensor : TensorShapes(config)) {
    digest.Update(absl::StrCat(tensor.name, " ", ShapeText(tensor.shape), "\n"));
  }
  return digest.FinishHex();
}

absl::StatusOr<std::string> WeightsFingerprint(const LlamaWeights& weights) {
  return CatchTorch("WeightsFingerprint", [&]() -> absl::StatusOr<std::string> {
    const std::vector<NamedTensor> tensors = NamedTensors(weights);
    std::vector<std::string> digests(tensors.size());
    std::atomic<size_t> next{0};
    at::parallel_for(0, at::get_num_threads(), 1, [&](int64_t begin, int64_t end) {
      for (int64_t worker = begin; worker < end; ++worker) {
        for (size_t i = next++; i < tensors.size(); i = next++) {
          digests[i] = BytesDigest(tensors[i].tensor);
        }
      }
    });
    Sha256 digest;
    digest.Update(FunctionLine(weights.config));
    for (size_t i = 0; i < tensors.size(); ++i) {
      const at::IntArrayRef sizes = tensors[i].tensor.sizes();
      digest.Update(absl::StrCat(tensors[i].name, " F32 ", ShapeText({sizes.data(), sizes.size()}),
                                 " ", digests[i], "\n"));
    }
    return digest.FinishHex();
  });
}

std::vector<LinearLayer> LinearLayers(const LlamaConfig& config) {
  std::vector<LinearLayer> shapes;
  for (const std::string& path : LinearModulePaths(config)) {
    const auto [out, in] = LinearShape(config, path);
    shapes.push_back({.path = path, .in_features = in, .out_features = out});
  }
  return shapes;
}

}  // namespace evolora
