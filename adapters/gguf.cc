#include "evolora/adapters/gguf.h"

#include <cmath>
#include <limits>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "evolora/core/status_macros.h"
#include "gguf_layout.h"

namespace evolora {
namespace {

absl::Status TypeError(absl::string_view key, const GgufValue& value, absl::string_view wanted) {
  std::string type = gguf::ValueTypeName(value.type);
  if (value.type == GgufValueType::kArray) {
    absl::StrAppend(&type, " of ", gguf::ValueTypeName(value.element));
  }
  return absl::InvalidArgumentError(absl::StrCat("key '", key, "' is ", type, ", not ", wanted));
}

bool IsInteger(GgufValueType type) {
  return type != GgufValueType::kF32 && type != GgufValueType::kF64 &&
         type != GgufValueType::kBool && type != GgufValueType::kString &&
         type != GgufValueType::kArray;
}

// The value as an unsigned integer up to `max`; nothing for other types and values.
std::optional<uint64_t> AsUnsigned(const GgufValue& value, uint64_t max) {
  if (!IsInteger(value.type)) return std::nullopt;
  if (const int64_t* v = std::get_if<int64_t>(&value.value)) {
    if (*v < 0 || static_cast<uint64_t>(*v) > max) return std::nullopt;
    return static_cast<uint64_t>(*v);
  }
  const uint64_t v = std::get<uint64_t>(value.value);
  if (v > max) return std::nullopt;
  return v;
}

bool IsArrayOf(const GgufValue& value, GgufValueType element) {
  return value.type == GgufValueType::kArray && value.element == element;
}

template <typename T>
GgufValue Scalar(GgufValueType type, T value) {
  GgufValue result;
  result.type = type;
  result.value = std::move(value);
  return result;
}

template <typename T>
GgufValue Array(GgufValueType element, std::vector<T> values) {
  GgufValue result;
  result.type = GgufValueType::kArray;
  result.element = element;
  result.value = std::move(values);
  return result;
}

}  // namespace

GgufValue GgufValue::U32(uint32_t v) { return Scalar(GgufValueType::kU32, uint64_t{v}); }
GgufValue GgufValue::F32(float v) { return Scalar(GgufValueType::kF32, double{v}); }
GgufValue GgufValue::Bool(bool v) { return Scalar(GgufValueType::kBool, uint64_t{v}); }
GgufValue GgufValue::String(std::string v) { return Scalar(GgufValueType::kString, std::move(v)); }
GgufValue GgufValue::StringArray(std::vector<std::string> v) {
  return Array(GgufValueType::kString, std::move(v));
}
GgufValue GgufValue::F32Array(absl::Span<const float> v) {
  return Array(GgufValueType::kF32, std::vector<double>(v.begin(), v.end()));
}
GgufValue GgufValue::I32Array(absl::Span<const int32_t> v) {
  return Array(GgufValueType::kI32, std::vector<int64_t>(v.begin(), v.end()));
}

const GgufTensor* GgufFile::FindTensor(absl::string_view name) const {
  const auto it = tensor_index_.find(std::string(name));
  return it == tensor_index_.end() ? nullptr : &tensors_[it->second];
}

const GgufValue* GgufFile::Find(absl::string_view key) const {
  const auto it = value_index_.find(std::string(key));
  return it == value_index_.end() ? nullptr : &values_[it->second].second;
}

bool GgufFile::Has(absl::string_view key) const { return Find(key) != nullptr; }

namespace {

absl::StatusOr<const GgufValue*> Require(const GgufFile& file, absl::string_view key) {
  if (const GgufValue* value = file.Find(key)) return value;
  return absl::NotFoundError(absl::StrCat("key '", key, "' is missing"));
}

absl::StatusOr<uint64_t> RequireUnsigned(const GgufFile& file, absl::string_view key,
                                         uint64_t max) {
  ASSIGN_OR_RETURN(const GgufValue* value, Require(file, key));
  if (const std::optional<uint64_t> v = AsUnsigned(*value, max)) return *v;
  return TypeError(key, *value, absl::StrCat("an integer in [0, ", max, "]"));
}

}  // namespace

absl::StatusOr<std::string> GgufFile::GetString(absl::string_view key) const {
  ASSIGN_OR_RETURN(const GgufValue* value, Require(*this, key));
  if (value->type != GgufValueType::kString) return TypeError(key, *value, "string");
  return std::get<std::string>(value->value);
}

absl::StatusOr<uint32_t> GgufFile::GetU32(absl::string_view key) const {
  ASSIGN_OR_RETURN(const uint64_t v,
                   RequireUnsigned(*this, key, std::numeric_limits<uint32_t>::max()));
  return static_cast<uint32_t>(v);
}

absl::StatusOr<uint64_t> GgufFile::GetU64(absl::string_view key) const {
  return RequireUnsigned(*this, key, std::numeric_limits<uint64_t>::max());
}

absl::StatusOr<float> GgufFile::GetF32(absl::string_view key) const {
  ASSIGN_OR_RETURN(const GgufValue* value, Require(*this, key));
  if (value->type != GgufValueType::kF32) return TypeError(key, *value, "f32");
  return static_cast<float>(std::get<double>(value->value));
}

absl::StatusOr<bool> GgufFile::GetBool(absl::string_view key) const {
  ASSIGN_OR_RETURN(const GgufValue* value, Require(*this, key));
  if (value->type != GgufValueType::kBool) return TypeError(key, *value, "bool");
  return std::get<uint64_t>(value->value) != 0;
}

absl::StatusOr<std::vector<std::string>> GgufFile::GetStringArray(absl::string_view key) const {
  ASSIGN_OR_RETURN(const GgufValue* value, Require(*this, key));
  if (!IsArrayOf(*value, GgufValueType::kString)) return TypeError(key, *value, "array of string");
  return std::get<std::vector<std::string>>(value->value);
}

absl::StatusOr<std::vector<float>> GgufFile::GetF32Array(absl::string_view key) const {
  ASSIGN_OR_RETURN(const GgufValue* value, Require(*this, key));
  if (!IsArrayOf(*value, GgufValueType::kF32)) return TypeError(key, *value, "array of f32");
  const auto& wide = std::get<std::vector<double>>(value->value);
  return std::vector<float>(wide.begin(), wide.end());
}

absl::StatusOr<std::vector<int32_t>> GgufFile::GetI32Array(absl::string_view key) const {
  ASSIGN_OR_RETURN(const GgufValue* value, Require(*this, key));
  if (value->type != GgufValueType::kArray || !IsInteger(value->element)) {
    return TypeError(key, *value, "array of integers");
  }
  std::vector<int32_t> result;
  const auto append = [&](auto v) {
    if (!std::in_range<int32_t>(v)) return false;
    result.push_back(static_cast<int32_t>(v));
    return true;
  };
  const auto out_of_range = [&](size_t i) {
    return absl::InvalidArgumentError(absl::StrCat("key '", key, "'[", i, "] is not within i32"));
  };
  if (const auto* wide = std::get_if<std::vector<int64_t>>(&value->value)) {
    for (size_t i = 0; i < wide->size(); ++i) {
      if (!append((*wide)[i])) return out_of_range(i);
    }
  } else {
    const auto& unsigned_wide = std::get<std::vector<uint64_t>>(value->value);
    for (size_t i = 0; i < unsigned_wide.size(); ++i) {
      if (!append(unsigned_wide[i])) return out_of_range(i);
    }
  }
  return result;
}

}  // namespace evolora
