#include "evolora/adapters/safetensors.h"

#include <algorithm>
#include <bit>
#include <cstring>
#include <set>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "evolora/core/json.h"
#include "evolora/core/status_macros.h"

namespace evolora {
namespace {

static_assert(std::endian::native == std::endian::little, "files are little-endian");

constexpr uint64_t kMaxHeaderBytes = 100'000'000;
constexpr uint64_t kMaxIndexBytes = 100'000'000;
constexpr char kMetadataKey[] = "__metadata__";
constexpr char kSingleFile[] = "model.safetensors";
constexpr char kIndexFile[] = "model.safetensors.index.json";

struct Contents {
  std::vector<TensorView> tensors;  // in the order of the data
  std::map<std::string, std::string> metadata;
};

absl::Status EntryError(absl::string_view name, absl::string_view why) {
  return absl::InvalidArgumentError(absl::StrCat("tensor '", name, "': ", why));
}

// The header's text without its padding.
absl::StatusOr<absl::string_view> HeaderText(absl::Span<const uint8_t> file) {
  uint64_t length = 0;
  if (file.size() < sizeof(length)) {
    return absl::DataLossError(
        absl::StrCat("a file of ", file.size(), " bytes has no header length"));
  }
  std::memcpy(&length, file.data(), sizeof(length));
  if (length > kMaxHeaderBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("header of ", length, " bytes, limit ", kMaxHeaderBytes));
  }
  if (length > file.size() - sizeof(length)) {
    return absl::DataLossError(
        absl::StrCat("header of ", length, " bytes in a file of ", file.size(), " bytes"));
  }
  absl::string_view text(reinterpret_cast<const char*>(file.data()) + sizeof(length), length);
  if (text.empty() || text.front() != '{') {
    return absl::InvalidArgumentError("offset 8: the header does not start with '{'");
  }
  while (text.back() == ' ') text.remove_suffix(1);
  if (text.back() != '}') {
    return absl::InvalidArgumentError(absl::StrCat(
        "offset ", 8 + text.size() - 1, ": the header ends with neither '}' nor blanks"));
  }
  return text;
}

absl::StatusOr<std::vector<int64_t>> NonNegativeArray(const Json& json, absl::string_view name,
                                                      absl::string_view key) {
  if (!json.is_array()) return EntryError(name, absl::StrCat(key, " is not an array"));
  std::vector<int64_t> values;
  for (const Json& item : json) {
    if (!item.is_number_unsigned() || item.get<uint64_t>() > uint64_t{1} << 62) {
      return EntryError(
          name, absl::StrCat(key, " holds ", DisplayJson(item), ", not an integer in [0, 2^62]"));
    }
    values.push_back(item.get<int64_t>());
  }
  return values;
}

// One entry of the header; `bytes` is the slice of `data` that it names.
absl::StatusOr<TensorView> ParseEntry(const std::string& name, const Json& entry,
                                      absl::Span<const uint8_t> data) {
  if (!entry.is_object()) return EntryError(name, "the entry is not an object");
  for (const auto& [key, value] : entry.items()) {
    if (key != "dtype" && key != "shape" && key != "data_offsets") {
      return EntryError(name, absl::StrCat("unknown key '", key, "'"));
    }
  }
  if (entry.size() != 3) return EntryError(name, "dtype, shape or data_offsets is missing");
  if (!entry["dtype"].is_string()) return EntryError(name, "dtype is not a string");
  TensorView tensor;
  tensor.name = name;
  absl::StatusOr<DType> dtype = DTypeFromName(entry["dtype"].get_ref<const std::string&>());
  if (!dtype.ok()) return Annotate(dtype.status(), absl::StrCat("tensor '", name, "'"));
  tensor.dtype = *dtype;
  ASSIGN_OR_RETURN(tensor.shape, NonNegativeArray(entry["shape"], name, "shape"));
  ASSIGN_OR_RETURN(const std::vector<int64_t> offsets,
                   NonNegativeArray(entry["data_offsets"], name, "data_offsets"));
  if (offsets.size() != 2) return EntryError(name, "data_offsets has not two numbers");
  const uint64_t begin = offsets[0], end = offsets[1];
  if (begin > end) return EntryError(name, absl::StrCat("offsets ", begin, " > ", end));
  if (end > data.size()) {
    return absl::DataLossError(absl::StrCat("tensor '", name, "': ends at ", end,
                                            " of the data, which has ", data.size(), " bytes"));
  }
  absl::StatusOr<int64_t> count = CountElements(tensor.shape);
  if (!count.ok()) return Annotate(count.status(), absl::StrCat("tensor '", name, "'"));
  const uint64_t width = DTypeBytes(tensor.dtype);
  if ((end - begin) % width != 0 || (end - begin) / width != static_cast<uint64_t>(*count)) {
    return EntryError(name, absl::StrCat("offsets ", begin, " to ", end, " do not hold ",
                                         DTypeName(tensor.dtype), ShapeText(tensor.shape)));
  }
  tensor.bytes = data.subspan(begin, end - begin);
  return tensor;
}

absl::StatusOr<std::map<std::string, std::string>> ParseMetadata(const Json& json) {
  if (!json.is_object()) {
    return absl::InvalidArgumentError("__metadata__ is not an object");
  }
  std::map<std::string, std::string> metadata;
  for (const auto& [key, value] : json.items()) {
    if (!value.is_string()) {
      return absl::InvalidArgumentError(absl::StrCat("__metadata__ '", key, "' is not a string"));
    }
    metadata[key] = value.get<std::string>();
  }
  return metadata;
}

// Sorts by offset and requires the tensors to tile the data.
absl::Status CheckTiling(std::vector<TensorView>& tensors, absl::Span<const uint8_t> data) {
  const auto begin_of = [&](const TensorView& t) { return t.bytes.data() - data.data(); };
  std::sort(tensors.begin(), tensors.end(), [&](const TensorView& x, const TensorView& y) {
    return std::make_pair(begin_of(x), x.bytes.size()) <
           std::make_pair(begin_of(y), y.bytes.size());
  });
  uint64_t end = 0;
  for (const TensorView& tensor : tensors) {
    if (static_cast<uint64_t>(begin_of(tensor)) != end) {
      return EntryError(tensor.name, absl::StrCat("begins at ", begin_of(tensor),
                                                  " of the data, the tensor before ends at ", end));
    }
    end += tensor.bytes.size();
  }
  if (end != data.size()) {
    return absl::DataLossError(absl::StrCat("the tensors end at ", end, " of the data, which has ",
                                            data.size(), " bytes"));
  }
  return absl::OkStatus();
}

absl::StatusOr<Contents> ParseContents(absl::Span<const uint8_t> file) {
  ASSIGN_OR_RETURN(const absl::string_view text, HeaderText(file));
  absl::StatusOr<Json> header = ParseJson(text, {.max_bytes = kMaxHeaderBytes, .max_depth = 4});
  if (!header.ok()) return Annotate(header.status(), "safetensors header");
  uint64_t padded = 0;
  std::memcpy(&padded, file.data(), sizeof(padded));
  const absl::Span<const uint8_t> data = file.subspan(8 + padded);
  Contents contents;
  for (const auto& [name, entry] : header->items()) {
    if (name == kMetadataKey) {
      ASSIGN_OR_RETURN(contents.metadata, ParseMetadata(entry));
      continue;
    }
    ASSIGN_OR_RETURN(TensorView tensor, ParseEntry(name, entry, data));
    contents.tensors.push_back(std::move(tensor));
  }
  RETURN_IF_ERROR(CheckTiling(contents.tensors, data));
  return contents;
}

void SortByName(std::vector<TensorView>& tensors) {
  std::sort(tensors.begin(), tensors.end(),
            [](const TensorView& x, const TensorView& y) { return x.name < y.name; });
}

// weight_map of the index: tensor name -> file name, each a plain name in the folder.
absl::StatusOr<std::map<std::string, std::string>> ReadIndex(const FileSystem& fs,
                                                             const std::string& path) {
  ASSIGN_OR_RETURN(const std::string text, fs.ReadFile(path, kMaxIndexBytes));
  absl::StatusOr<Json> index = ParseJson(text, {.max_bytes = kMaxIndexBytes, .max_depth = 8});
  if (!index.ok()) return Annotate(index.status(), path);
  if (!index->is_object() || !index->contains("weight_map") ||
      !(*index)["weight_map"].is_object()) {
    return absl::InvalidArgumentError(absl::StrCat(path, ": no object weight_map"));
  }
  std::map<std::string, std::string> files;
  for (const auto& [name, value] : (*index)["weight_map"].items()) {
    const std::string file = value.is_string() ? value.get<std::string>() : "";
    if (!absl::EndsWith(file, ".safetensors") || absl::StrContains(file, "/") ||
        absl::StrContains(file, "..") || file.find('\0') != std::string::npos) {
      return absl::InvalidArgumentError(absl::StrCat(
          path, ": tensor '", name, "' is in ", DisplayJson(value), ", not a .safetensors name"));
    }
    files[name] = file;
  }
  if (files.empty()) return absl::InvalidArgumentError(absl::StrCat(path, ": weight_map is empty"));
  return files;
}

// Both directions between the index and one of its files.
absl::Status CheckAgainstIndex(const std::map<std::string, std::string>& index,
                               const std::string& file, const std::vector<TensorView>& tensors) {
  std::set<absl::string_view> present;
  for (const TensorView& tensor : tensors) {
    present.insert(tensor.name);
    const auto it = index.find(tensor.name);
    if (it == index.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat(file, " holds tensor '", tensor.name, "', which the index does not name"));
    }
    if (it->second != file) {
      return absl::InvalidArgumentError(absl::StrCat("duplicate tensor '", tensor.name, "': in ",
                                                     file, ", by the index in ", it->second));
    }
  }
  for (const auto& [name, expected] : index) {
    if (expected == file && !present.contains(name)) {
      return absl::InvalidArgumentError(absl::StrCat("missing tensor '", name, "': not in ", file));
    }
  }
  return absl::OkStatus();
}

absl::Status MergeMetadata(const std::map<std::string, std::string>& from, const std::string& file,
                           std::map<std::string, std::string>& into) {
  for (const auto& [key, value] : from) {
    const auto [it, inserted] = into.emplace(key, value);
    if (!inserted && it->second != value) {
      return absl::InvalidArgumentError(absl::StrCat(file, ": __metadata__ '", key, "' is '", value,
                                                     "', in an earlier file '", it->second, "'"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<SafetensorsFile> SafetensorsFile::Parse(absl::Span<const uint8_t> file) {
  ASSIGN_OR_RETURN(Contents contents, ParseContents(file));
  SafetensorsFile result;
  result.tensors_ = std::move(contents.tensors);
  result.metadata_ = std::move(contents.metadata);
  SortByName(result.tensors_);
  return result;
}

absl::StatusOr<SafetensorsFile> SafetensorsFile::Open(const FileSystem& fs,
                                                      const std::string& path) {
  ASSIGN_OR_RETURN(std::unique_ptr<MappedFile> map, fs.Map(path));
  absl::StatusOr<SafetensorsFile> result = Parse(map->bytes());
  if (!result.ok()) return Annotate(result.status(), path);
  result->maps_.push_back(std::move(map));
  return result;
}

absl::StatusOr<SafetensorsFile> SafetensorsFile::OpenFolder(const FileSystem& fs,
                                                            const std::string& dir) {
  const std::string single = JoinPath(dir, kSingleFile);
  const std::string index_path = JoinPath(dir, kIndexFile);
  if (!fs.Exists(index_path)) {
    if (fs.Exists(single)) return Open(fs, single);
    return absl::NotFoundError(absl::StrCat(dir, ": no ", kSingleFile, " and no ", kIndexFile));
  }
  ASSIGN_OR_RETURN(const auto index, ReadIndex(fs, index_path));
  std::set<std::string> files;
  for (const auto& [name, file] : index) files.insert(file);
  if (fs.Exists(single) && !files.contains(kSingleFile)) {
    return absl::InvalidArgumentError(
        absl::StrCat(dir, ": both ", kSingleFile, " and ", kIndexFile));
  }
  SafetensorsFile result;
  for (const std::string& file : files) {
    ASSIGN_OR_RETURN(SafetensorsFile part, Open(fs, JoinPath(dir, file)));
    RETURN_IF_ERROR(CheckAgainstIndex(index, file, part.tensors_));
    RETURN_IF_ERROR(MergeMetadata(part.metadata_, file, result.metadata_));
    for (auto& map : part.maps_) result.maps_.push_back(std::move(map));
    for (auto& tensor : part.tensors_) result.tensors_.push_back(std::move(tensor));
  }
  SortByName(result.tensors_);
  return result;
}

const TensorView* SafetensorsFile::Find(absl::string_view name) const {
  const auto it = std::lower_bound(
      tensors_.begin(), tensors_.end(), name,
      [](const TensorView& tensor, absl::string_view n) { return tensor.name < n; });
  return it != tensors_.end() && it->name == name ? &*it : nullptr;
}

}  // namespace evolora
