#include "gguf_layout.h"

#include "absl/strings/str_cat.h"
#include "evolora/adapters/tensor_file.h"
#include "evolora/core/status_macros.h"

namespace evolora::gguf {
namespace {

struct ValueTypeRow {
  const char* name;
  uint64_t bytes;
};

// By file number.
constexpr ValueTypeRow kValueTypes[] = {
    {"u8", 1},   {"i8", 1},     {"u16", 2},   {"i16", 2}, {"u32", 4}, {"i32", 4}, {"f32", 4},
    {"bool", 1}, {"string", 0}, {"array", 0}, {"u64", 8}, {"i64", 8}, {"f64", 8}};
constexpr uint32_t kNumValueTypes = sizeof(kValueTypes) / sizeof(kValueTypes[0]);

}  // namespace

uint64_t FixedSize(GgufValueType type) {
  const uint32_t number = static_cast<uint32_t>(type);
  return number < kNumValueTypes ? kValueTypes[number].bytes : 0;
}

std::string ValueTypeName(GgufValueType type) {
  const uint32_t number = static_cast<uint32_t>(type);
  return number < kNumValueTypes ? kValueTypes[number].name : absl::StrCat("type ", number);
}

absl::Status CheckName(absl::string_view what, absl::string_view name, size_t max_bytes) {
  if (name.empty() || name.size() > max_bytes) {
    return absl::InvalidArgumentError(absl::StrCat(what, " '", name.substr(0, 80), "' has ",
                                                   name.size(), " bytes, not 1 to ", max_bytes));
  }
  if (name.find('\0') != absl::string_view::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat(what, " '", name.substr(0, name.find('\0')), "' goes on after a NUL byte"));
  }
  return absl::OkStatus();
}

absl::StatusOr<uint64_t> TensorBytes(const std::string& name, GgmlType type,
                                     absl::Span<const int64_t> shape) {
  const std::string where = absl::StrCat("tensor '", name, "'");
  absl::StatusOr<GgmlBlock> block = GgmlBlockOf(type);
  if (!block.ok()) return Annotate(block.status(), where);
  if (shape.empty() || shape.size() > kMaxAxes) {
    return absl::InvalidArgumentError(absl::StrCat(where, ": ", shape.size(), " axes"));
  }
  for (int64_t axis : shape) {
    if (axis < 1) {
      return absl::InvalidArgumentError(absl::StrCat(where, ": shape ", ShapeText(shape)));
    }
  }
  absl::StatusOr<int64_t> count = CountElements(shape);
  if (!count.ok()) return Annotate(count.status(), where);
  if (shape.back() % block->elements != 0) {
    return absl::InvalidArgumentError(absl::StrCat(where, ": rows of ", shape.back(),
                                                   " are no whole blocks of ", GgmlTypeName(type)));
  }
  const int64_t num_blocks = *count / block->elements;
  if (num_blocks > (int64_t{1} << 62) / block->bytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(where, ": shape ", ShapeText(shape), " overflows"));
  }
  return static_cast<uint64_t>(num_blocks * block->bytes);
}

}  // namespace evolora::gguf
