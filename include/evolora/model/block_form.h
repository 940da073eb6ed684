#pragma once

#include <cstdint>

namespace evolora {

// 32 neighbouring weights of a row, as a matrix in few bits keeps them (compact_matrix.h). Of
// value * scale + low the product has no more digits than fp32, so that it is rounded once.
constexpr int64_t kCompactBlock = 32;

//   kBf16     16 bits a weight
//   kF16      16 bits
//   kInt8      9 bits: value * scale
//   kInt8Low  12 bits: low + value * scale, of 16 weights each. Holds whatever a file has in 8 bits
//             or fewer: GGUF's Q5_0, Q5_1, Q5_K, Q6_K, and rows of several types in one matrix
//   kQ4        5 bits: low + value * scale (GGUF's Q4_0, Q4_1)
//   kQ4Float   6 bits: likewise in fp32 (GGUF's Q4_K)
enum class BlockForm { kBf16, kF16, kInt8, kInt8Low, kQ4, kQ4Float };
constexpr int kBlockForms = 6;
const char* BlockFormName(BlockForm form);  // "bf16", "f16", "int8", "int8-low", "q4", "q4-float"

struct Bf16Weights {
  uint16_t values[kCompactBlock];
};
struct F16Weights {
  uint16_t values[kCompactBlock];  // finite
};
struct Int8Weights {  // weight i = values[i] * scale
  float scale;
  int8_t values[kCompactBlock];
};
struct Int8LowWeights {  // weight i = low[i / 16] + values[i] * scale[i / 16]
  float scale[2], low[2];
  int8_t values[kCompactBlock];
};
struct Q4Weights {  // weight i = low + value i * scale; value i + 16 is the high half of values[i]
  uint16_t scale, low;  // fp16, finite
  uint8_t values[kCompactBlock / 2];
};
struct Q4FloatWeights {  // likewise
  float scale, low;
  uint8_t values[kCompactBlock / 2];
};

// Bytes of a block.
constexpr int64_t BlockBytes(BlockForm form) {
  constexpr int64_t kBytes[kBlockForms] = {sizeof(Bf16Weights), sizeof(F16Weights),
                                           sizeof(Int8Weights), sizeof(Int8LowWeights),
                                           sizeof(Q4Weights),   sizeof(Q4FloatWeights)};
  return kBytes[static_cast<int>(form)];
}

}  // namespace evolora
