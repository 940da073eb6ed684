#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/types/span.h"
#include "evolora/model/compact_matrix.h"
#include "evolora/model/llama_weights.h"
#include "evolora/model/weight_storage.h"

namespace evolora {

// The matrices of a layer that read the same input, stacked.
struct CompactLayer {
  CompactMatrix qkv;  // q, k, v
  CompactMatrix o;
  CompactMatrix gate_up;  // gate, up
  CompactMatrix down;
};

// What a matrix is rounded to. REQUIRES: storage is kBf16, kInt8 or kQ4.
BlockForm FormOf(WeightStorage storage);

// The large matrices of a base in few bits.
struct CompactWeights {
  WeightStorage storage = WeightStorage::kBf16;  // as asked for, never kFp32
  CompactMatrix embedding;
  CompactMatrix head;  // the embedding's bytes when the config says so
  std::vector<CompactLayer> layers;
};

// Room for the matrices of a base. REQUIRES: storage is kBf16, kInt8 or kQ4.
CompactWeights AllocateCompact(const LlamaConfig& config, WeightStorage storage);
// Room for matrices that have each a form of its own. form_of: that of the one in which the tensors
// with these Hugging Face names are stacked.
using FormOfTensors = std::function<BlockForm(absl::Span<const std::string> names)>;
CompactWeights AllocateExact(const LlamaConfig& config, const FormOfTensors& form_of);
// Bytes that AllocateCompact takes.
int64_t CompactBytes(const LlamaConfig& config, WeightStorage storage);
// Bytes of these matrices. REQUIRES: `config` is theirs.
int64_t CompactBytes(const LlamaConfig& config, const CompactWeights& compact);

// The matrix of `compact` that holds the tensor with this Hugging Face name, and its first row
// there; matrix is null for a tensor that stays fp32. The head of a tied config has none.
struct CompactPlace {
  CompactMatrix* matrix = nullptr;
  int64_t first_row = 0;
};
CompactPlace FindCompact(const LlamaConfig& config, const std::string& name,
                         CompactWeights& compact);
struct ConstCompactPlace {
  const CompactMatrix* matrix = nullptr;
  int64_t first_row = 0;
};
ConstCompactPlace FindCompact(const LlamaConfig& config, const std::string& name,
                              const CompactWeights& compact);
// That tensor as fp32; undefined for one that has no place.
at::Tensor WidenCompact(const LlamaConfig& config, const std::string& name,
                        const CompactWeights& compact);

// `weights` with rounded matrices; norms and biases are shared. REQUIRES: !weights.compact, storage
// is not kFp32. Uses LibTorch's threads.
LlamaWeights CompactCopy(const LlamaWeights& weights, WeightStorage storage);
// The same base as plain fp32 tensors: what the compact one computes with. REQUIRES:
// weights.compact.
LlamaWeights WidenedCopy(const LlamaWeights& weights);

}  // namespace evolora
