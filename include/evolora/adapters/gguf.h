#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "evolora/core/file_system.h"

namespace evolora {

// Tensor element types of GGML by their file numbers. Types that are not named here but exist are
// kept by number: their tensors have a size and can be listed, but not dequantized.
enum class GgmlType : uint32_t {
  kF32 = 0,
  kF16 = 1,
  kQ4_0 = 2,
  kQ4_1 = 3,
  kQ5_0 = 6,
  kQ5_1 = 7,
  kQ8_0 = 8,
  kQ4_K = 12,
  kQ5_K = 13,
  kQ6_K = 14,
  kBF16 = 30,
};

// Elements per block and bytes per block.
struct GgmlBlock {
  int64_t elements = 0;
  int64_t bytes = 0;
};

// Unimplemented for a number that no released GGML has.
absl::StatusOr<GgmlBlock> GgmlBlockOf(GgmlType type);
// "Q4_1", or "type 77".
std::string GgmlTypeName(GgmlType type);

enum class GgufValueType : uint32_t {
  kU8 = 0,
  kI8,
  kU16,
  kI16,
  kU32,
  kI32,
  kF32,
  kBool,
  kString,
  kArray,
  kU64,
  kI64,
  kF64
};

// One value of the key-value part. `type` says how it lies in the file; `value` holds it widened
// without loss: unsigned and bool -> uint64_t, signed -> int64_t, floating -> double. For kArray
// `element` is the type of the elements and `value` holds the vector.
struct GgufValue {
  GgufValueType type = GgufValueType::kU32;
  GgufValueType element = GgufValueType::kU32;
  std::variant<uint64_t, int64_t, double, std::string, std::vector<uint64_t>, std::vector<int64_t>,
               std::vector<double>, std::vector<std::string>>
      value;

  static GgufValue U32(uint32_t v);
  static GgufValue F32(float v);
  static GgufValue Bool(bool v);
  static GgufValue String(std::string v);
  static GgufValue StringArray(std::vector<std::string> v);
  static GgufValue F32Array(absl::Span<const float> v);
  static GgufValue I32Array(absl::Span<const int32_t> v);
};

// One tensor. `shape` is row-major as in Hugging Face files, outermost axis first, so a linear
// weight is [out, in]; the file itself lists axes innermost first. Does not own `bytes`.
struct GgufTensor {
  std::string name;
  GgmlType type = GgmlType::kF32;
  std::vector<int64_t> shape;  // 1 to 4 axes, each >= 1
  absl::Span<const uint8_t> bytes;
};

// A GGUF file, version 2 or 3, little-endian.
//
//   file   := "GGUF" version:u32 num_tensors:u64 num_pairs:u64 pair* info* pad data
//   pair   := key:string type:u32 value              string := length:u64 bytes
//   info   := name:string num_axes:u32 axis:u64* type:u32 offset:u64
//   data   := tensors, each padded to general.alignment (u32, a power of two, 32 when absent)
//
// Errors of the readers: InvalidArgument (a rule is broken), DataLoss (the file ends early, or goes
// on after its last tensor), Unimplemented (version 1, big-endian, nested arrays, unknown tensor
// type); each names the key or tensor and the offset. Rules: counts and lengths fit the file, keys
// and names appear once, names have 1 to 63 bytes and no NUL, booleans are 0 or 1, rows are whole
// blocks, offsets equal the running padded sum.
// Immutable after construction: any number of threads may read.
class GgufFile {
 public:
  // Maps the file; the map lives as long as the object.
  static absl::StatusOr<GgufFile> Open(const FileSystem& fs, const std::string& path);
  // Reads a file's bytes in memory, which must outlive the object.
  static absl::StatusOr<GgufFile> Parse(absl::Span<const uint8_t> file);

  GgufFile(GgufFile&&) = default;
  GgufFile& operator=(GgufFile&&) = default;

  // In file order.
  const std::vector<GgufTensor>& tensors() const { return tensors_; }
  // nullptr when there is no tensor of that name.
  const GgufTensor* FindTensor(absl::string_view name) const;

  bool Has(absl::string_view key) const;
  // nullptr when there is no such key.
  const GgufValue* Find(absl::string_view key) const;
  const std::vector<std::pair<std::string, GgufValue>>& values() const { return values_; }

  // NotFound names the missing key; InvalidArgument names the key, its type and the wanted one.
  // The integer getters take a value of any integer type that fits.
  absl::StatusOr<std::string> GetString(absl::string_view key) const;
  absl::StatusOr<uint32_t> GetU32(absl::string_view key) const;
  absl::StatusOr<uint64_t> GetU64(absl::string_view key) const;
  absl::StatusOr<float> GetF32(absl::string_view key) const;
  absl::StatusOr<bool> GetBool(absl::string_view key) const;
  absl::StatusOr<std::vector<std::string>> GetStringArray(absl::string_view key) const;
  absl::StatusOr<std::vector<float>> GetF32Array(absl::string_view key) const;
  absl::StatusOr<std::vector<int32_t>> GetI32Array(absl::string_view key) const;

 private:
  GgufFile() = default;

  std::unique_ptr<MappedFile> map_;
  std::vector<std::pair<std::string, GgufValue>> values_;
  std::vector<GgufTensor> tensors_;
  std::map<std::string, size_t> value_index_;
  std::map<std::string, size_t> tensor_index_;
};

// The bytes of a version 3 file with alignment 32 that holds these pairs and tensors, in the given
// order. InvalidArgument: what the reader would refuse (equal keys, long names, sizes that do not
// fit), or a "general.alignment" among the pairs.
absl::StatusOr<std::string> SerializeGguf(
    absl::Span<const std::pair<std::string, GgufValue>> values,
    absl::Span<const GgufTensor> tensors);

}  // namespace evolora
