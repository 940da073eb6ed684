#pragma once

#include <cstdint>
#include <functional>

#include "absl/types/span.h"
#include "evolora/adapters/gguf.h"
#include "evolora/adapters/tensor_file.h"
#include "evolora/model/weight_storage.h"

namespace evolora {

// Blocks of a CompactMatrix that give the values of a file's tensor back, number by number.
struct ExactBlocks {
  WeightStorage storage = WeightStorage::kFp32;  // kFp32: there are none
  // Writes those of all rows, one behind the other. False: a value is not finite, or has no such
  // form after all. May be called from any thread.
  std::function<bool(uint8_t* blocks)> write;
};

// Of Q4_0, Q4_1, Q8_0 and BF16 tensors with two axes and whole blocks of 32 in a row. The bytes
// outlive the result.
ExactBlocks ExactBlocksOf(const GgufTensor& tensor);
// Of BF16 ones likewise.
ExactBlocks ExactBlocksOf(const TensorView& tensor);

}  // namespace evolora
