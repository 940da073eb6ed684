#include "evolora/adapters/tensor_file.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace evolora {
namespace {

struct DTypeRow {
  DType dtype;
  const char* name;
  int64_t bytes;
};

constexpr DTypeRow kDTypes[] = {{DType::kF64, "F64", 8}, {DType::kF32, "F32", 4},
                                {DType::kF16, "F16", 2}, {DType::kBF16, "BF16", 2},
                                {DType::kI64, "I64", 8}, {DType::kI32, "I32", 4},
                                {DType::kI16, "I16", 2}, {DType::kI8, "I8", 1},
                                {DType::kU8, "U8", 1},   {DType::kBool, "BOOL", 1}};

// Types that the format has and evolora has no use for.
constexpr const char* kForeignTypes[] = {"U16",     "U32",     "U64",         "C64",
                                         "F4",      "F6_E2M3", "F6_E3M2",     "F8_E5M2",
                                         "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"};

}  // namespace

const char* DTypeName(DType dtype) { return kDTypes[static_cast<int>(dtype)].name; }

int64_t DTypeBytes(DType dtype) { return kDTypes[static_cast<int>(dtype)].bytes; }

absl::StatusOr<DType> DTypeFromName(absl::string_view name) {
  for (const DTypeRow& row : kDTypes) {
    if (name == row.name) return row.dtype;
  }
  for (const char* foreign : kForeignTypes) {
    if (name == foreign) {
      return absl::UnimplementedError(absl::StrCat("element type ", name, " is not read"));
    }
  }
  return absl::InvalidArgumentError(absl::StrCat("unknown element type '", name, "'"));
}

absl::StatusOr<int64_t> CountElements(absl::Span<const int64_t> shape) {
  constexpr int64_t kMax = int64_t{1} << 62;
  int64_t count = 1;
  for (int64_t axis : shape) {
    if (axis < 0) {
      return absl::InvalidArgumentError(absl::StrCat("shape ", ShapeText(shape), " is negative"));
    }
    if (axis != 0 && count > kMax / axis) {
      return absl::InvalidArgumentError(absl::StrCat("shape ", ShapeText(shape), " overflows"));
    }
    count *= axis;
  }
  return count;
}

std::string ShapeText(absl::Span<const int64_t> shape) {
  return absl::StrCat("[", absl::StrJoin(shape, ", "), "]");
}

}  // namespace evolora
