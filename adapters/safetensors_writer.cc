#include <algorithm>
#include <cstring>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "evolora/adapters/safetensors.h"
#include "evolora/core/json.h"
#include "evolora/core/status_macros.h"

namespace evolora {
namespace {

// The order of the official writer: the format's list of types, backwards.
int WriteRank(DType dtype) {
  switch (dtype) {
    case DType::kI64:
      return 0;
    case DType::kF64:
      return 1;
    case DType::kF32:
      return 2;
    case DType::kI32:
      return 3;
    case DType::kBF16:
      return 4;
    case DType::kF16:
      return 5;
    case DType::kI16:
      return 6;
    case DType::kI8:
      return 7;
    case DType::kU8:
      return 8;
    case DType::kBool:
      return 9;
  }
  return 10;
}

std::vector<const TensorView*> WriteOrder(absl::Span<const TensorView> tensors) {
  std::vector<const TensorView*> order;
  for (const TensorView& tensor : tensors) order.push_back(&tensor);
  std::sort(order.begin(), order.end(), [](const TensorView* x, const TensorView* y) {
    return std::make_pair(WriteRank(x->dtype), absl::string_view(x->name)) <
           std::make_pair(WriteRank(y->dtype), absl::string_view(y->name));
  });
  return order;
}

absl::Status CheckTensor(const TensorView& tensor) {
  absl::StatusOr<int64_t> count = CountElements(tensor.shape);
  if (!count.ok()) return Annotate(count.status(), absl::StrCat("tensor '", tensor.name, "'"));
  const uint64_t width = DTypeBytes(tensor.dtype);
  if (tensor.bytes.size() % width != 0 ||
      tensor.bytes.size() / width != static_cast<uint64_t>(*count)) {
    return absl::InvalidArgumentError(
        absl::StrCat("tensor '", tensor.name, "': ", tensor.bytes.size(), " bytes for ",
                     DTypeName(tensor.dtype), ShapeText(tensor.shape)));
  }
  return absl::OkStatus();
}

// Length field, JSON and padding.
absl::StatusOr<std::string> HeaderBytes(absl::Span<const TensorView* const> order,
                                        const std::map<std::string, std::string>& metadata) {
  OrderedJson header = OrderedJson::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  uint64_t offset = 0;
  std::vector<absl::string_view> names = {"__metadata__"};
  // Filled as a list of pairs: an insertion by name is a linear search in an ordered object.
  auto& members = header.get_ref<OrderedJson::object_t&>();
  for (const TensorView* tensor : order) {
    RETURN_IF_ERROR(CheckTensor(*tensor));
    names.push_back(tensor->name);
    members.push_back({tensor->name,
                       {{"dtype", DTypeName(tensor->dtype)},
                        {"shape", tensor->shape},
                        {"data_offsets", {offset, offset + tensor->bytes.size()}}}});
    offset += tensor->bytes.size();
  }
  std::sort(names.begin(), names.end());
  const auto twice = std::adjacent_find(names.begin(), names.end());
  if (twice != names.end()) {
    return absl::InvalidArgumentError(absl::StrCat("tensor name '", *twice, "' twice or reserved"));
  }
  std::string text;
  try {
    text = header.dump();
  } catch (const OrderedJson::exception& e) {
    return absl::InvalidArgumentError(absl::StrCat("safetensors header: ", e.what()));
  }
  text.append((8 - text.size() % 8) % 8, ' ');
  const uint64_t length = text.size();
  std::string bytes(sizeof(length), '\0');
  std::memcpy(bytes.data(), &length, sizeof(length));
  return bytes + text;
}

}  // namespace

absl::StatusOr<std::string> SerializeSafetensors(
    absl::Span<const TensorView> tensors, const std::map<std::string, std::string>& metadata) {
  const std::vector<const TensorView*> order = WriteOrder(tensors);
  ASSIGN_OR_RETURN(std::string file, HeaderBytes(order, metadata));
  for (const TensorView* tensor : order) {
    file.append(reinterpret_cast<const char*>(tensor->bytes.data()), tensor->bytes.size());
  }
  return file;
}

absl::Status WriteSafetensors(FileSystem& fs, const std::string& path,
                              absl::Span<const TensorView> tensors,
                              const std::map<std::string, std::string>& metadata) {
  const std::vector<const TensorView*> order = WriteOrder(tensors);
  ASSIGN_OR_RETURN(const std::string header, HeaderBytes(order, metadata));
  return fs.ReplaceFile(path, [&](const std::string& temp_path) {
    std::ofstream out(temp_path, std::ios::binary | std::ios::trunc);
    out.write(header.data(), static_cast<std::streamsize>(header.size()));
    for (const TensorView* tensor : order) {
      out.write(reinterpret_cast<const char*>(tensor->bytes.data()),
                static_cast<std::streamsize>(tensor->bytes.size()));
    }
    out.close();
    if (out.good()) return absl::OkStatus();
    return absl::ResourceExhaustedError(absl::StrCat(temp_path, ": write failed"));
  });
}

}  // namespace evolora
