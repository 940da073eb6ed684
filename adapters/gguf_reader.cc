#include <array>
#include <bit>
#include <cstring>
#include <type_traits>

#include "absl/strings/str_cat.h"
#include "evolora/adapters/gguf.h"
#include "evolora/adapters/tensor_file.h"
#include "evolora/core/status_macros.h"
#include "gguf_layout.h"

namespace evolora {
namespace {

static_assert(std::endian::native == std::endian::little, "files are little-endian");

// Reads forward through the bytes; every read is bounds-checked.
class Cursor {
 public:
  explicit Cursor(absl::Span<const uint8_t> bytes) : bytes_(bytes) {}

  uint64_t offset() const { return offset_; }
  uint64_t remaining() const { return bytes_.size() - offset_; }

  template <typename T>
  absl::StatusOr<T> Read(absl::string_view what) {
    if (remaining() < sizeof(T)) return Short(what, sizeof(T));
    T value;
    std::memcpy(&value, bytes_.data() + offset_, sizeof(T));
    offset_ += sizeof(T);
    return value;
  }

  absl::StatusOr<std::string> ReadString(absl::string_view what) {
    ASSIGN_OR_RETURN(const uint64_t length, Read<uint64_t>(what));
    if (length > remaining()) return Short(what, length);
    std::string text(reinterpret_cast<const char*>(bytes_.data()) + offset_, length);
    offset_ += length;
    return text;
  }

  absl::Status Short(absl::string_view what, uint64_t wanted) const {
    return absl::DataLossError(absl::StrCat("offset ", offset_, ": ", what, " needs ", wanted,
                                            " bytes, ", remaining(), " are left"));
  }

 private:
  absl::Span<const uint8_t> bytes_;
  uint64_t offset_ = 0;
};

// A number of type File, widened to Wide.
template <typename Wide, typename File>
absl::StatusOr<Wide> ReadWide(Cursor& cursor, absl::string_view what) {
  ASSIGN_OR_RETURN(const File value, cursor.Read<File>(what));
  return static_cast<Wide>(value);
}

absl::StatusOr<uint64_t> ReadBool(Cursor& cursor, absl::string_view what) {
  ASSIGN_OR_RETURN(const uint8_t value, cursor.Read<uint8_t>(what));
  if (value <= 1) return uint64_t{value};
  return absl::InvalidArgumentError(
      absl::StrCat("offset ", cursor.offset() - 1, ": ", what, ": bool is ", int{value}));
}

// Calls `read` with the reader of one scalar of `type`, or gives Unimplemented.
template <typename Visitor>
absl::Status VisitScalar(GgufValueType type, Cursor& cursor, const std::string& what,
                         const Visitor& visit) {
  switch (type) {
    case GgufValueType::kU8:
      return visit([&] { return ReadWide<uint64_t, uint8_t>(cursor, what); });
    case GgufValueType::kI8:
      return visit([&] { return ReadWide<int64_t, int8_t>(cursor, what); });
    case GgufValueType::kU16:
      return visit([&] { return ReadWide<uint64_t, uint16_t>(cursor, what); });
    case GgufValueType::kI16:
      return visit([&] { return ReadWide<int64_t, int16_t>(cursor, what); });
    case GgufValueType::kU32:
      return visit([&] { return ReadWide<uint64_t, uint32_t>(cursor, what); });
    case GgufValueType::kI32:
      return visit([&] { return ReadWide<int64_t, int32_t>(cursor, what); });
    case GgufValueType::kF32:
      return visit([&] { return ReadWide<double, float>(cursor, what); });
    case GgufValueType::kBool:
      return visit([&] { return ReadBool(cursor, what); });
    case GgufValueType::kString:
      return visit([&] { return cursor.ReadString(what); });
    case GgufValueType::kU64:
      return visit([&] { return ReadWide<uint64_t, uint64_t>(cursor, what); });
    case GgufValueType::kI64:
      return visit([&] { return ReadWide<int64_t, int64_t>(cursor, what); });
    case GgufValueType::kF64:
      return visit([&] { return ReadWide<double, double>(cursor, what); });
    case GgufValueType::kArray:
      break;
  }
  return absl::UnimplementedError(absl::StrCat("offset ", cursor.offset(), ": ", what,
                                               ": values of ", gguf::ValueTypeName(type)));
}

absl::StatusOr<GgufValue> ReadArray(Cursor& cursor, const std::string& what) {
  GgufValue result;
  result.type = GgufValueType::kArray;
  ASSIGN_OR_RETURN(const uint32_t element, cursor.Read<uint32_t>(what));
  result.element = static_cast<GgufValueType>(element);
  ASSIGN_OR_RETURN(const uint64_t count, cursor.Read<uint64_t>(what));
  // A string has at least its length field; so no count makes us reserve more than a few file
  // sizes.
  const uint64_t fixed = gguf::FixedSize(result.element);
  const uint64_t min_bytes = fixed == 0 ? sizeof(uint64_t) : fixed;
  if (count > cursor.remaining() / min_bytes) {
    return absl::DataLossError(absl::StrCat("offset ", cursor.offset(), ": ", what, ": ", count,
                                            " elements in ", cursor.remaining(), " bytes"));
  }
  RETURN_IF_ERROR(VisitScalar(result.element, cursor, what, [&](auto read) -> absl::Status {
    std::vector<std::remove_reference_t<decltype(*read())>> values;
    values.reserve(count);
    for (uint64_t i = 0; i < count; ++i) {
      ASSIGN_OR_RETURN(auto value, read());
      values.push_back(std::move(value));
    }
    result.value = std::move(values);
    return absl::OkStatus();
  }));
  return result;
}

absl::StatusOr<GgufValue> ReadValue(Cursor& cursor, const std::string& key) {
  const std::string what = absl::StrCat("key '", key, "'");
  ASSIGN_OR_RETURN(const uint32_t number, cursor.Read<uint32_t>(what));
  if (static_cast<GgufValueType>(number) == GgufValueType::kArray) return ReadArray(cursor, what);
  GgufValue result;
  result.type = static_cast<GgufValueType>(number);
  RETURN_IF_ERROR(VisitScalar(result.type, cursor, what, [&](auto read) -> absl::Status {
    ASSIGN_OR_RETURN(auto value, read());
    result.value = std::move(value);
    return absl::OkStatus();
  }));
  return result;
}

struct Header {
  uint64_t num_tensors = 0;
  uint64_t num_pairs = 0;
};

absl::StatusOr<Header> ReadHeader(Cursor& cursor) {
  ASSIGN_OR_RETURN(const auto magic, (cursor.Read<std::array<char, 4>>("magic")));
  if (std::memcmp(magic.data(), gguf::kMagic, 4) != 0) {
    return absl::InvalidArgumentError("offset 0: the file does not start with GGUF");
  }
  ASSIGN_OR_RETURN(const uint32_t version, cursor.Read<uint32_t>("version"));
  if (version != 2 && version != 3) {
    const bool swapped = version != 0 && (version & 0xffffu) == 0;
    return absl::UnimplementedError(absl::StrCat("offset 4: version ", version,
                                                 swapped ? " (big-endian file)" : "",
                                                 ", only 2 and 3 are read"));
  }
  Header header;
  ASSIGN_OR_RETURN(header.num_tensors, cursor.Read<uint64_t>("tensor count"));
  ASSIGN_OR_RETURN(header.num_pairs, cursor.Read<uint64_t>("key count"));
  // Smallest possible pair: key of 1, type, value of 1; smallest info: name of 1, no axes.
  constexpr uint64_t kMinPairBytes = 8 + 1 + 4 + 1;
  constexpr uint64_t kMinInfoBytes = 8 + 1 + 4 + 4 + 8;
  if (header.num_pairs > cursor.remaining() / kMinPairBytes ||
      header.num_tensors > cursor.remaining() / kMinInfoBytes) {
    return absl::DataLossError(absl::StrCat("offset 8: ", header.num_tensors, " tensors and ",
                                            header.num_pairs, " keys in ", cursor.remaining(),
                                            " bytes"));
  }
  return header;
}

// A tensor's entry; its bytes are not known before the data section is.
struct Info {
  GgufTensor tensor;
  uint64_t offset = 0;
  uint64_t num_bytes = 0;
};

absl::StatusOr<Info> ReadInfo(Cursor& cursor, uint64_t index) {
  Info info;
  const std::string number = absl::StrCat("tensor ", index);
  ASSIGN_OR_RETURN(info.tensor.name, cursor.ReadString(number));
  RETURN_IF_ERROR(gguf::CheckName("tensor name", info.tensor.name, gguf::kMaxNameBytes));
  const std::string what = absl::StrCat("tensor '", info.tensor.name, "'");
  ASSIGN_OR_RETURN(const uint32_t num_axes, cursor.Read<uint32_t>(what));
  if (num_axes < 1 || num_axes > gguf::kMaxAxes) {
    return absl::InvalidArgumentError(absl::StrCat(what, ": ", num_axes, " axes"));
  }
  info.tensor.shape.resize(num_axes);
  for (uint32_t i = num_axes; i > 0; --i) {
    ASSIGN_OR_RETURN(info.tensor.shape[i - 1], cursor.Read<int64_t>(what));
  }
  ASSIGN_OR_RETURN(const uint32_t type, cursor.Read<uint32_t>(what));
  info.tensor.type = static_cast<GgmlType>(type);
  ASSIGN_OR_RETURN(info.offset, cursor.Read<uint64_t>(what));
  ASSIGN_OR_RETURN(info.num_bytes,
                   gguf::TensorBytes(info.tensor.name, info.tensor.type, info.tensor.shape));
  return info;
}

absl::StatusOr<uint64_t> AlignmentOf(const GgufValue* value) {
  if (value == nullptr) return gguf::kDefaultAlignment;
  constexpr uint64_t kMaxAlignment = uint64_t{1} << 20;
  const uint64_t* alignment =
      value->type == GgufValueType::kU32 ? std::get_if<uint64_t>(&value->value) : nullptr;
  if (alignment == nullptr || !std::has_single_bit(*alignment) || *alignment > kMaxAlignment) {
    return absl::InvalidArgumentError(absl::StrCat(
        "key '", gguf::kAlignmentKey, "' is no u32 power of two up to ", kMaxAlignment));
  }
  return *alignment;
}

// Gives each tensor its bytes; the tensors tile the data section, each padded to `alignment`.
absl::Status PlaceTensors(absl::Span<const uint8_t> file, uint64_t infos_end, uint64_t alignment,
                          std::vector<Info>& infos) {
  const uint64_t start = gguf::Pad(infos_end, alignment);
  uint64_t end = 0;     // of the data, without padding
  uint64_t padded = 0;  // where the next tensor has to be
  for (Info& info : infos) {
    const uint64_t available = file.size() > start ? file.size() - start : 0;
    if (info.offset != padded) {
      return absl::InvalidArgumentError(absl::StrCat("tensor '", info.tensor.name, "': offset ",
                                                     info.offset, " of the data, not ", padded));
    }
    if (info.num_bytes > available || padded > available - info.num_bytes) {
      return absl::DataLossError(absl::StrCat("tensor '", info.tensor.name, "': ", info.num_bytes,
                                              " bytes at ", padded, " of the data, which has ",
                                              available));
    }
    info.tensor.bytes = file.subspan(start + padded, info.num_bytes);
    end = padded + info.num_bytes;
    padded = gguf::Pad(end, alignment);
  }
  const uint64_t limit = start + padded;
  if (file.size() > limit) {
    return absl::DataLossError(
        absl::StrCat("offset ", limit, ": ", file.size() - limit, " bytes after the last tensor"));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<GgufFile> GgufFile::Parse(absl::Span<const uint8_t> file) {
  Cursor cursor(file);
  ASSIGN_OR_RETURN(const Header header, ReadHeader(cursor));
  GgufFile result;
  for (uint64_t i = 0; i < header.num_pairs; ++i) {
    ASSIGN_OR_RETURN(std::string key, cursor.ReadString(absl::StrCat("key ", i)));
    RETURN_IF_ERROR(gguf::CheckName("key", key, gguf::kMaxKeyBytes));
    if (!result.value_index_.emplace(key, result.values_.size()).second) {
      return absl::InvalidArgumentError(absl::StrCat("duplicate key '", key, "'"));
    }
    ASSIGN_OR_RETURN(GgufValue value, ReadValue(cursor, key));
    result.values_.emplace_back(std::move(key), std::move(value));
  }
  std::vector<Info> infos;
  for (uint64_t i = 0; i < header.num_tensors; ++i) {
    ASSIGN_OR_RETURN(Info info, ReadInfo(cursor, i));
    if (!result.tensor_index_.emplace(info.tensor.name, i).second) {
      return absl::InvalidArgumentError(absl::StrCat("duplicate tensor '", info.tensor.name, "'"));
    }
    infos.push_back(std::move(info));
  }
  ASSIGN_OR_RETURN(const uint64_t alignment, AlignmentOf(result.Find(gguf::kAlignmentKey)));
  RETURN_IF_ERROR(PlaceTensors(file, cursor.offset(), alignment, infos));
  for (Info& info : infos) result.tensors_.push_back(std::move(info.tensor));
  return result;
}

absl::StatusOr<GgufFile> GgufFile::Open(const FileSystem& fs, const std::string& path) {
  ASSIGN_OR_RETURN(std::unique_ptr<MappedFile> map, fs.Map(path));
  absl::StatusOr<GgufFile> result = Parse(map->bytes());
  if (!result.ok()) return Annotate(result.status(), path);
  result->map_ = std::move(map);
  return result;
}

}  // namespace evolora
