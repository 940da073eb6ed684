#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace evolora {

// One decoding step at the start of a text.
struct Utf8Step {
  enum class Kind { kCharacter, kInvalid, kIncomplete };
  Kind kind = Kind::kInvalid;
  uint32_t code_point = 0;  // kCharacter only
  // kCharacter: its bytes. kInvalid: the maximal invalid sequence (Unicode table 3-7), at least 1.
  // kIncomplete: all of `text`, which could begin a character.
  size_t num_bytes = 0;
};

// REQUIRES: `text` is not empty.
Utf8Step DecodeUtf8(absl::string_view text);

// Length of the longest valid prefix; text.size() when all of it is valid.
size_t ValidUtf8Prefix(absl::string_view text);

// REQUIRES: a Unicode scalar value.
void AppendUtf8(uint32_t code_point, std::string& out);

// The Unicode property White_Space.
bool IsWhiteSpace(uint32_t code_point);

// Python's str.strip(): White_Space and the separators U+001C..U+001F on both ends.
// REQUIRES: valid UTF-8.
absl::string_view PythonStrip(absl::string_view text);

}  // namespace evolora
