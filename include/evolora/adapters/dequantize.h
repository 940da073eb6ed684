#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "evolora/adapters/gguf.h"
#include "evolora/adapters/tensor_file.h"

namespace evolora {

// Writes the `num_elements` values that `bytes` holds to `out` (caller's buffer, row-major order).
//
// GGML types: F32, F16, BF16, Q8_0, Q4_0, Q4_1, Q5_0, Q5_1, Q4_K, Q5_K, Q6_K, each operation
// rounded to fp32 in the order of the Python package `gguf` (gguf.quants.dequantize), so that
// results are equal bit for bit:
//   Q8_0 d q;  Q4_0 d (q - 8);  Q5_0 d (q - 16);  Q4_1, Q5_1 d q + m;
//   Q4_K, Q5_K (d s) q - (dmin m);  Q6_K (d s) (q - 32)
// Errors: InvalidArgument  num_elements is negative or no multiple of the block, or `bytes` has
//                          another size than num_elements need
//         Unimplemented    another type, by name
// Threads: any; one call uses one.
absl::Status DequantizeToFloat(GgmlType type, absl::Span<const uint8_t> bytes, int64_t num_elements,
                               float* out);
// safetensors types: F32, F16 and BF16 exactly; F64 rounded to nearest. Others: Unimplemented.
absl::Status DequantizeToFloat(DType type, absl::Span<const uint8_t> bytes, int64_t num_elements,
                               float* out);

// The 6-bit scale and minimum of group `group` of 8 in the 12 bytes where blocks of Q4_K and Q5_K
// keep them.
struct KGroup {
  int scale;
  int minimum;
};
KGroup KGroupOf(const uint8_t* scales, int group);

// IEEE half and bfloat16. To float exactly; from float round to nearest, ties to even; overflow
// gives infinity; NaN stays a (quiet) NaN.
float HalfToFloat(uint16_t half);
uint16_t FloatToHalf(float value);
float BFloat16ToFloat(uint16_t bits);
uint16_t FloatToBFloat16(float value);

}  // namespace evolora
