#include "evolora/data/array_file.h"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <utility>

#include "absl/base/attributes.h"
#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/synchronization/mutex.h"
#include "evolora/core/sha256.h"
#include "evolora/core/status_macros.h"
#include "hdf5_image.h"

namespace evolora {
namespace {

using internal::kUserBlockBytes;

constexpr absl::string_view kMagic = "EVOLORA-ARRAYS\r\n";
constexpr uint32_t kVersion = 1;
constexpr size_t kDigestOffset = 32;
constexpr size_t kHeaderBytes = 64;
constexpr size_t kMaxNameBytes = 128;
constexpr size_t kMaxRank = 8;
constexpr size_t kMaxStringBytes = 32768;

ABSL_CONST_INIT absl::Mutex hdf5_mutex(absl::kConstInit);

uint64_t LoadLittleEndian(absl::string_view bytes, size_t offset, size_t num_bytes) {
  uint64_t value = 0;
  for (size_t i = 0; i < num_bytes; ++i) {
    value |= static_cast<uint64_t>(static_cast<uint8_t>(bytes[offset + i])) << (8 * i);
  }
  return value;
}

void StoreLittleEndian(uint64_t value, size_t num_bytes, char* out) {
  for (size_t i = 0; i < num_bytes; ++i) out[i] = static_cast<char>(value >> (8 * i));
}

absl::Status CheckName(absl::string_view what, const std::string& name) {
  const auto is_good = [](char c) {
    return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_' || c == '.' || c == '-';
  };
  // HDF5 reads "." as the group itself.
  if (name.empty() || name.size() > kMaxNameBytes || name == "." || name == ".." ||
      !std::all_of(name.begin(), name.end(), is_good)) {
    return absl::InvalidArgumentError(absl::StrCat(
        what, " '", absl::CHexEscape(name), "': a name is 1..128 characters of [A-Za-z0-9_.-]"));
  }
  return absl::OkStatus();
}

absl::Status CheckArray(const std::string& name, const Array& array) {
  RETURN_IF_ERROR(CheckName("array", name));
  const std::string shape = absl::StrCat("[", absl::StrJoin(array.shape, ","), "]");
  if (array.shape.size() > kMaxRank) {
    return absl::InvalidArgumentError(absl::StrCat("array '", name, "': rank of ", shape, " > 8"));
  }
  uint64_t count = 1;
  for (int64_t dim : array.shape) {
    if (dim < 0 || __builtin_mul_overflow(count, static_cast<uint64_t>(dim), &count)) {
      return absl::InvalidArgumentError(absl::StrCat("array '", name, "': bad shape ", shape));
    }
  }
  const size_t size = std::visit([](const auto& values) { return values.size(); }, array.values);
  if (count != size) {
    return absl::InvalidArgumentError(
        absl::StrCat("array '", name, "': shape ", shape, " but ", size, " values"));
  }
  return absl::OkStatus();
}

absl::Status CheckContent(const ArrayFile& content) {
  for (const auto& [name, array] : content.arrays) RETURN_IF_ERROR(CheckArray(name, array));
  for (const auto& [name, value] : content.attributes) {
    RETURN_IF_ERROR(CheckName("attribute", name));
    const auto* text = std::get_if<std::string>(&value);
    if (text == nullptr) continue;
    if (text->size() > kMaxStringBytes || text->find('\0') != std::string::npos) {
      return absl::InvalidArgumentError(absl::StrCat("attribute '", name, "': text of ",
                                                     text->size(), " bytes; at most ",
                                                     kMaxStringBytes, ", without NUL"));
    }
  }
  return absl::OkStatus();
}

// Fills the user block in front of a finished HDF5 file.
void Seal(std::string& bytes) {
  const absl::string_view payload = absl::string_view(bytes).substr(kUserBlockBytes);
  const std::string digest = absl::HexStringToBytes(Sha256Hex(payload));
  std::memcpy(bytes.data(), kMagic.data(), kMagic.size());
  StoreLittleEndian(kVersion, 4, &bytes[16]);
  StoreLittleEndian(payload.size(), 8, &bytes[24]);
  std::memcpy(&bytes[kDigestOffset], digest.data(), digest.size());
}

// What must hold before HDF5 may see the bytes.
absl::Status CheckSeal(absl::string_view bytes) {
  if (bytes.size() < kUserBlockBytes || bytes.substr(0, kMagic.size()) != kMagic) {
    return absl::DataLossError("not an array file (magic)");
  }
  const uint64_t version = LoadLittleEndian(bytes, 16, 4);
  if (version != kVersion) {
    return absl::FailedPreconditionError(
        absl::StrCat("array file version ", version, ", this build reads ", kVersion));
  }
  const absl::string_view payload = bytes.substr(kUserBlockBytes);
  const uint64_t size = LoadLittleEndian(bytes, 24, 8);
  if (size != payload.size()) {
    return absl::DataLossError(
        absl::StrCat("truncated or grown: ", payload.size(), " bytes of HDF5, recorded ", size));
  }
  const std::string recorded = absl::BytesToHexString(bytes.substr(kDigestOffset, 32));
  const std::string found = Sha256Hex(payload);
  if (found != recorded) {
    return absl::DataLossError(absl::StrCat("digest ", found, ", recorded ", recorded));
  }
  const absl::string_view rest = bytes.substr(kHeaderBytes, kUserBlockBytes - kHeaderBytes);
  if (LoadLittleEndian(bytes, 20, 4) != 0 || rest.find_first_not_of('\0') != rest.npos) {
    return absl::DataLossError("user block has bytes beyond its fields");
  }
  return absl::OkStatus();
}

// Plain write of a new file; ReplaceFile makes it durable.
absl::Status WriteWhole(const std::string& path, absl::string_view bytes) {
  std::FILE* file = std::fopen(path.c_str(), "wb");
  if (file == nullptr) return absl::InternalError(absl::StrCat(path, ": cannot create"));
  const bool written = std::fwrite(bytes.data(), 1, bytes.size(), file) == bytes.size();
  const bool closed = std::fclose(file) == 0;
  if (written && closed) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat(path, ": could not write ", bytes.size(), " bytes"));
}

}  // namespace

template <typename T>
absl::StatusOr<absl::Span<const T>> ArrayFile::Values(const std::string& name) const {
  const auto it = arrays.find(name);
  if (it == arrays.end()) return absl::NotFoundError(absl::StrCat("no array '", name, "'"));
  const auto* values = std::get_if<std::vector<T>>(&it->second.values);
  if (values == nullptr) {
    return absl::InvalidArgumentError(
        absl::StrCat("array '", name, "' is of another type (", it->second.values.index(), ")"));
  }
  return absl::MakeConstSpan(*values);
}
template absl::StatusOr<absl::Span<const float>> ArrayFile::Values(const std::string&) const;
template absl::StatusOr<absl::Span<const double>> ArrayFile::Values(const std::string&) const;
template absl::StatusOr<absl::Span<const int64_t>> ArrayFile::Values(const std::string&) const;
template absl::StatusOr<absl::Span<const int32_t>> ArrayFile::Values(const std::string&) const;
template absl::StatusOr<absl::Span<const uint8_t>> ArrayFile::Values(const std::string&) const;

absl::Status WriteArrayFile(FileSystem& files, const std::string& path, const ArrayFile& content) {
  RETURN_IF_ERROR(Annotate(CheckContent(content), path));
  std::string bytes;
  {
    absl::MutexLock lock(&hdf5_mutex);
    absl::StatusOr<std::string> image = internal::ToHdf5Image(content);
    if (!image.ok()) return Annotate(image.status(), path);
    bytes = *std::move(image);
  }
  Seal(bytes);
  return files.ReplaceFile(
      path, [&bytes](const std::string& temp_path) { return WriteWhole(temp_path, bytes); });
}

absl::StatusOr<ArrayFile> ReadArrayFile(const FileSystem& files, const std::string& path,
                                        const ArrayFileLimits& limits) {
  ASSIGN_OR_RETURN(const std::string bytes, files.ReadFile(path, limits.max_bytes));
  RETURN_IF_ERROR(Annotate(CheckSeal(bytes), path));
  absl::MutexLock lock(&hdf5_mutex);
  absl::StatusOr<ArrayFile> content = internal::FromHdf5Image(bytes, limits);
  if (!content.ok()) return Annotate(content.status(), path);
  return content;
}

}  // namespace evolora
