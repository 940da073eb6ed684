#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "evolora/adapters/gguf.h"

// What reader and writer of GGUF share.
namespace evolora::gguf {

constexpr char kMagic[] = "GGUF";
constexpr uint32_t kVersion = 3;
constexpr uint64_t kDefaultAlignment = 32;
constexpr char kAlignmentKey[] = "general.alignment";

constexpr size_t kMaxKeyBytes = 65535;
constexpr size_t kMaxNameBytes = 63;  // GGML keeps a name in 64 bytes with its NUL
constexpr uint32_t kMaxAxes = 4;

// Bytes of a value of a fixed-size type; 0 for strings, arrays and unknown numbers.
uint64_t FixedSize(GgufValueType type);
// "u32", "array", or "type 99".
std::string ValueTypeName(GgufValueType type);

// `size` rounded up to `alignment`, a power of two. REQUIRES: no overflow.
inline uint64_t Pad(uint64_t size, uint64_t alignment) {
  return (size + alignment - 1) & ~(alignment - 1);
}

// A key: 1 to 65,535 bytes without NUL; a tensor name: 1 to 63.
absl::Status CheckName(absl::string_view what, absl::string_view name, size_t max_bytes);

// Bytes of a tensor of this type and row-major shape. InvalidArgument: 0 or more than 4 axes, an
// axis below 1, overflow, or a row that is no whole number of blocks. Unimplemented: unknown type.
absl::StatusOr<uint64_t> TensorBytes(const std::string& name, GgmlType type,
                                     absl::Span<const int64_t> shape);

}  // namespace evolora::gguf
