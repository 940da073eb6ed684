#include "protobuf_wire.h"

#include <cstring>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "evolora/core/status_macros.h"

namespace evolora {
namespace {

void WriteVarint(uint64_t value, std::string& out) {
  for (; value >= 0x80; value >>= 7) out.push_back(static_cast<char>(value | 0x80));
  out.push_back(static_cast<char>(value));
}

}  // namespace

absl::Status WireReader::Bad(absl::string_view why) const {
  return absl::InvalidArgumentError(absl::StrCat("protobuf at byte ", base_ + at_, ": ", why));
}

absl::StatusOr<uint64_t> WireReader::Varint() {
  uint64_t value = 0;
  for (int shift = 0; shift < 64; shift += 7) {
    if (AtEnd()) return Bad("cut off inside a number");
    const uint8_t byte = static_cast<uint8_t>(message_[at_++]);
    if (shift == 63 && byte > 1) break;
    value |= static_cast<uint64_t>(byte & 0x7F) << shift;
    if (byte < 0x80) return value;
  }
  return Bad("a number of more than 64 bits");
}

absl::StatusOr<uint64_t> WireReader::Fixed(size_t num_bytes) {
  if (message_.size() - at_ < num_bytes) return Bad("cut off inside a number");
  uint64_t value = 0;
  for (size_t i = 0; i < num_bytes; ++i) {
    value |= static_cast<uint64_t>(static_cast<uint8_t>(message_[at_ + i])) << (8 * i);
  }
  at_ += num_bytes;
  return value;
}

absl::StatusOr<WireField> WireReader::Next() {
  WireField field{.offset = base_ + at_};
  ASSIGN_OR_RETURN(const uint64_t tag, Varint());
  if (tag >> 32 != 0 || tag >> 3 == 0) return Bad(absl::StrCat("field tag ", tag));
  field.number = static_cast<uint32_t>(tag >> 3);
  field.type = static_cast<int>(tag & 7);
  switch (field.type) {
    case 0: {
      ASSIGN_OR_RETURN(field.value, Varint());
      return field;
    }
    case 1: {
      ASSIGN_OR_RETURN(field.value, Fixed(8));
      return field;
    }
    case 2: {
      ASSIGN_OR_RETURN(const uint64_t size, Varint());
      if (size > message_.size() - at_) {
        return Bad(absl::StrCat("field ", field.number, " claims ", size, " bytes of the ",
                                message_.size() - at_, " left"));
      }
      field.offset = base_ + at_;
      field.bytes = message_.substr(at_, size);
      at_ += size;
      return field;
    }
    case 5: {
      ASSIGN_OR_RETURN(field.value, Fixed(4));
      return field;
    }
    default:
      return Bad(absl::StrCat("field ", field.number, " has wire type ", field.type));
  }
}

void WriteVarintField(uint32_t number, uint64_t value, std::string& out) {
  WriteVarint(uint64_t{number} << 3, out);
  WriteVarint(value, out);
}

void WriteFloatField(uint32_t number, float value, std::string& out) {
  WriteVarint((uint64_t{number} << 3) | 5, out);
  uint32_t bits;
  std::memcpy(&bits, &value, sizeof(bits));
  for (int i = 0; i < 4; ++i) out.push_back(static_cast<char>(bits >> (8 * i)));
}

void WriteBytesField(uint32_t number, absl::string_view bytes, std::string& out) {
  WriteVarint((uint64_t{number} << 3) | 2, out);
  WriteVarint(bytes.size(), out);
  out.append(bytes.data(), bytes.size());
}

}  // namespace evolora
