#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace evolora {

// Element types of a safetensors file that evolora reads and writes. Multi-byte values are
// little-endian; a BOOL is one byte.
enum class DType { kF64, kF32, kF16, kBF16, kI64, kI32, kI16, kI8, kU8, kBool };

// One tensor as it lies in a file: row-major, first axis outermost. A scalar has no axes; an axis
// may be 0. Does not own `bytes`, which need not be aligned.
struct TensorView {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  absl::Span<const uint8_t> bytes;
};

// "F32", "BF16", ...: the spelling of the format.
const char* DTypeName(DType dtype);
int64_t DTypeBytes(DType dtype);
// Unimplemented for a type that the format knows and evolora does not (F8_E4M3, U64, ...),
// InvalidArgument for one that the format does not know either.
absl::StatusOr<DType> DTypeFromName(absl::string_view name);

// Product of the axes, 1 for a scalar. InvalidArgument: a negative axis, or more than 2^62
// elements.
absl::StatusOr<int64_t> CountElements(absl::Span<const int64_t> shape);

// "[3, 4]" for messages.
std::string ShapeText(absl::Span<const int64_t> shape);

}  // namespace evolora
