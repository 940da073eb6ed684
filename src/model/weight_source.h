#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "evolora/model/compact_matrix.h"
#include "evolora/model/llama_weights.h"
#include "evolora/model/weight_storage.h"
#include "exact_blocks.h"

namespace evolora {

// One tensor of a model file, under its Hugging Face name and shape.
struct SourceTensor {
  std::vector<int64_t> shape;
  // Writes all values, row-major. May be called from any thread.
  std::function<absl::Status(float* out)> read;
  // > 0: the rows of each of so many heads lie in adjacent-pair order (0, h, 1, h + 1, ... of
  // rotate-half order), as Meta's files and llama.cpp's conversion of Llama keep q and k.
  int64_t adjacent_pair_heads = 0;
  // Of a matrix; in the order of `read`.
  ExactBlocks exact;
  std::string file_name;  // its name in the file, for messages
};

// A model file, understood but not yet read.
struct WeightSource {
  LlamaConfig config;
  std::map<std::string, SourceTensor> tensors;  // by Hugging Face name
};

// Reads all tensors on all of LibTorch's threads. InvalidArgument names the tensor: missing, not
// part of the architecture, wrong shape, a value that is not finite. With another storage than
// kFp32 and kExact the large matrices are rounded one by one: as fp32 there is never more than one
// of each thread. With kExact the weights are compact where all of their matrices have exact
// blocks, else fp32. Throws as LibTorch does.
absl::StatusOr<std::shared_ptr<const LlamaWeights>> ReadWeights(const WeightSource& source,
                                                                WeightStorage storage);

}  // namespace evolora
