#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace evolora {

// One field of a protobuf message.
struct WireField {
  uint32_t number = 0;
  int type = 0;             // 0 varint, 1 64 bits, 2 bytes, 5 32 bits
  uint64_t value = 0;       // types 0, 1 and 5
  absl::string_view bytes;  // type 2
  size_t offset = 0;        // of the field in the whole file
};

// Walks over a message of protobuf's wire format. Does not own the bytes.
class WireReader {
 public:
  // `base`: offset of `message` in the file, for error texts.
  explicit WireReader(absl::string_view message, size_t base = 0)
      : message_(message), base_(base) {}

  bool AtEnd() const { return at_ == message_.size(); }
  // REQUIRES: !AtEnd(). Errors: InvalidArgument names the byte offset.
  absl::StatusOr<WireField> Next();

 private:
  absl::StatusOr<uint64_t> Varint();
  absl::StatusOr<uint64_t> Fixed(size_t num_bytes);
  absl::Status Bad(absl::string_view why) const;

  absl::string_view message_;
  size_t base_;
  size_t at_ = 0;
};

// Appends one field.
void WriteVarintField(uint32_t number, uint64_t value, std::string& out);
void WriteFloatField(uint32_t number, float value, std::string& out);
void WriteBytesField(uint32_t number, absl::string_view bytes, std::string& out);

}  // namespace evolora
