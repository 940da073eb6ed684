#pragma once

#include "absl/strings/string_view.h"

namespace evolora {

// How the large matrices of a base lie in memory: the linear layers, the embedding and the head.
// Norms and biases stay fp32. All but kFp32 round; what computes with them widens a block at a time
// and adds in fp32, so that its results are those of a base with rounded weights.
//   kFp32   as they are
//   kBf16   16 bits a weight, to nearest, ties to even
//   kInt8   9 bits: blocks of 32 along a row, value * fp32 scale, scale = largest / 127
//   kQ4     5 bits: blocks of 32 along a row, low + value * scale with fp16 low and scale (GGUF's
//           Q4_1, whose weights come back as they were); the embedding and the head as in kInt8
//   kExact  each matrix in a form (block_form.h) that gives the file's numbers back: of BF16, F16
//           and GGUF's blocks. As kFp32 where a matrix of the base has none
enum class WeightStorage { kFp32, kBf16, kInt8, kQ4, kExact };
const char* WeightStorageName(WeightStorage storage);  // "fp32", "bf16", "int8", "q4", "exact"
// False: no such name, or "exact", which rounds nothing and which nobody asks for.
bool ParseWeightStorage(absl::string_view name, WeightStorage& storage);

}  // namespace evolora
