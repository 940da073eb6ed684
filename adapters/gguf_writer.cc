#include <cstring>
#include <set>

#include "absl/strings/str_cat.h"
#include "evolora/adapters/gguf.h"
#include "evolora/adapters/tensor_file.h"
#include "evolora/core/status_macros.h"
#include "gguf_layout.h"

namespace evolora {
namespace {

template <typename T>
void Append(std::string& out, const T& value) {
  out.append(reinterpret_cast<const char*>(&value), sizeof(value));
}

void AppendString(std::string& out, absl::string_view text) {
  Append(out, uint64_t{text.size()});
  out.append(text.data(), text.size());
}

void AppendScalar(std::string& out, GgufValueType, const std::string& value) {
  AppendString(out, value);
}

void AppendScalar(std::string& out, GgufValueType type, double value) {
  if (type == GgufValueType::kF32) {
    Append(out, static_cast<float>(value));
  } else {
    Append(out, value);
  }
}

// Two's complement, low bytes first: the first bytes of the wide value are the narrow value.
void AppendScalar(std::string& out, GgufValueType type, uint64_t value) {
  out.append(reinterpret_cast<const char*>(&value), gguf::FixedSize(type));
}
void AppendScalar(std::string& out, GgufValueType type, int64_t value) {
  out.append(reinterpret_cast<const char*>(&value), gguf::FixedSize(type));
}

template <typename T>
void AppendValue(std::string& out, const GgufValue& described, const T& value) {
  AppendScalar(out, described.type, value);
}
template <typename T>
void AppendValue(std::string& out, const GgufValue& described, const std::vector<T>& values) {
  Append(out, described.element);
  Append(out, uint64_t{values.size()});
  for (const T& value : values) AppendScalar(out, described.element, value);
}

// The variant alternative that a value of `type` (or its elements) is held in.
size_t AlternativeOf(GgufValueType type) {
  switch (type) {
    case GgufValueType::kI8:
    case GgufValueType::kI16:
    case GgufValueType::kI32:
    case GgufValueType::kI64:
      return 1;
    case GgufValueType::kF32:
    case GgufValueType::kF64:
      return 2;
    case GgufValueType::kString:
      return 3;
    default:
      return 0;
  }
}

absl::Status CheckValue(const std::string& key, const GgufValue& value) {
  RETURN_IF_ERROR(gguf::CheckName("key", key, gguf::kMaxKeyBytes));
  if (key == gguf::kAlignmentKey) {
    return absl::InvalidArgumentError(absl::StrCat("key '", key, "' is the writer's"));
  }
  const bool is_array = value.type == GgufValueType::kArray;
  const GgufValueType scalar = is_array ? value.element : value.type;
  const bool known = scalar == GgufValueType::kString || gguf::FixedSize(scalar) > 0;
  if (!known || value.value.index() != AlternativeOf(scalar) + (is_array ? 4 : 0)) {
    return absl::InvalidArgumentError(absl::StrCat(
        "key '", key, "' is called ", gguf::ValueTypeName(scalar), " and holds something else"));
  }
  return absl::OkStatus();
}

absl::Status AppendPairs(absl::Span<const std::pair<std::string, GgufValue>> values,
                         std::string& out) {
  std::set<absl::string_view> keys;
  for (const auto& [key, value] : values) {
    RETURN_IF_ERROR(CheckValue(key, value));
    if (!keys.insert(key).second) {
      return absl::InvalidArgumentError(absl::StrCat("duplicate key '", key, "'"));
    }
    AppendString(out, key);
    Append(out, value.type);
    std::visit([&, &described = value](const auto& v) { AppendValue(out, described, v); },
               value.value);
  }
  return absl::OkStatus();
}

absl::Status AppendInfos(absl::Span<const GgufTensor> tensors, std::string& out) {
  std::set<absl::string_view> names;
  uint64_t offset = 0;
  for (const GgufTensor& tensor : tensors) {
    RETURN_IF_ERROR(gguf::CheckName("tensor name", tensor.name, gguf::kMaxNameBytes));
    if (!names.insert(tensor.name).second) {
      return absl::InvalidArgumentError(absl::StrCat("duplicate tensor '", tensor.name, "'"));
    }
    ASSIGN_OR_RETURN(const uint64_t bytes,
                     gguf::TensorBytes(tensor.name, tensor.type, tensor.shape));
    if (bytes != tensor.bytes.size()) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor '", tensor.name, "': ", tensor.bytes.size(), " bytes for ",
                       GgmlTypeName(tensor.type), ShapeText(tensor.shape)));
    }
    AppendString(out, tensor.name);
    Append(out, static_cast<uint32_t>(tensor.shape.size()));
    for (size_t i = tensor.shape.size(); i > 0; --i) Append(out, tensor.shape[i - 1]);
    Append(out, tensor.type);
    Append(out, offset);
    offset = gguf::Pad(offset + bytes, gguf::kDefaultAlignment);
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::string> SerializeGguf(
    absl::Span<const std::pair<std::string, GgufValue>> values,
    absl::Span<const GgufTensor> tensors) {
  std::string out = gguf::kMagic;
  Append(out, gguf::kVersion);
  Append(out, uint64_t{tensors.size()});
  Append(out, uint64_t{values.size()});
  RETURN_IF_ERROR(AppendPairs(values, out));
  RETURN_IF_ERROR(AppendInfos(tensors, out));
  const auto pad = [&] { out.resize(gguf::Pad(out.size(), gguf::kDefaultAlignment), '\0'); };
  pad();
  for (const GgufTensor& tensor : tensors) {
    out.append(reinterpret_cast<const char*>(tensor.bytes.data()), tensor.bytes.size());
    pad();
  }
  return out;
}

}  // namespace evolora
