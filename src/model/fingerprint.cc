#include <algorithm>
#include <atomic>
#include <vector>

#include "ATen/Parallel.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "evolora/adapters/tensor_file.h"
#include "evolora/core/sha256.h"
#include "evolora/model/base_model.h"
#include "evolora/model/compact_weights.h"
#include "evolora/model/llama_weights.h"
#include "evolora/model/rope.h"
#include "evolora/model/torch_status.h"

namespace evolora {
namespace {

// Of fp32 values that come row by row.
class ValuesDigest {
 public:
  // Zeros of either sign are one value, which the blocks of some files give as the other.
  void Update(const float* values, int64_t count) {
    for (int64_t first = 0; first < count; first += kChunk) {
      const int64_t some = std::min(kChunk, count - first);
      float chunk[kChunk];
      for (int64_t i = 0; i < some; ++i) chunk[i] = values[first + i] + 0.0f;
      digest_.Update(chunk, static_cast<size_t>(some) * sizeof(float));
    }
  }
  std::string FinishHex() { return digest_.FinishHex(); }

 private:
  static constexpr int64_t kChunk = 1024;
  Sha256 digest_;
};

std::string DigestOf(const at::Tensor& tensor) {
  ValuesDigest digest;
  digest.Update(tensor.const_data_ptr<float>(), tensor.numel());
  return digest.FinishHex();
}

// The tensor `shape` of a base; one in few bits is never wide as a whole.
std::string DigestOf(const LlamaWeights& weights, const NamedShape& shape,
                     const at::Tensor& tensor) {
  if (tensor.defined()) return DigestOf(tensor);
  const ConstCompactPlace place = FindCompact(weights.config, shape.name, *weights.compact);
  std::vector<float> row(static_cast<size_t>(shape.shape[1]));
  ValuesDigest digest;
  for (int64_t i = 0; i < shape.shape[0]; ++i) {
    place.matrix->WidenRow(place.first_row + i, row.data());
    digest.Update(row.data(), shape.shape[1]);
  }
  return digest.FinishHex();
}

// What the function needs beside the tensors. eps as the fp32 value that is added.
std::string FunctionLine(const LlamaConfig& c) {
  std::string windows;
  for (int64_t i = 0; i < c.num_layers; ++i) absl::StrAppend(&windows, ",", LayerWindow(c, i));
  return absl::StrFormat("function %d %d %a %d%d%d%d%s %s\n", c.num_heads, c.num_kv_heads,
                         static_cast<float>(c.rms_norm_eps), c.qkv_bias, c.output_bias, c.qk_norm,
                         c.tied_head, windows, DigestOf(RopeInverseFrequencies(c)));
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
    const std::vector<NamedShape> shapes = TensorShapes(weights.config);  // in the same order
    std::vector<std::string> digests(tensors.size());
    std::atomic<size_t> next{0};
    at::parallel_for(0, at::get_num_threads(), 1, [&](int64_t begin, int64_t end) {
      for (int64_t worker = begin; worker < end; ++worker) {
        for (size_t i = next++; i < tensors.size(); i = next++) {
          digests[i] = DigestOf(weights, shapes[i], tensors[i].tensor);
        }
      }
    });
    Sha256 digest;
    digest.Update(FunctionLine(weights.config));
    for (size_t i = 0; i < tensors.size(); ++i) {
      digest.Update(
          absl::StrCat(shapes[i].name, " F32 ", ShapeText(shapes[i].shape), " ", digests[i], "\n"));
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
