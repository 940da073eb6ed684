#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace evolora {

// GPT-2 writes each byte as one printable letter so that token texts never hold blanks or controls:
// the bytes 21..7E, A1..AC and AE..FF stand for themselves (as U+0021 ..), the other 68 bytes, in
// ascending order, become U+0100 .. U+0143.

// The letter of `byte`, UTF-8.
const std::string& LetterOfByte(unsigned char byte);

// Every byte of `bytes` as its letter.
std::string BytesToLetters(absl::string_view bytes);

// The bytes behind `letters`; a text with any other character is returned as it is.
std::string LettersToBytes(absl::string_view letters);

// The byte of a fallback token "<0x00>" .. "<0xFF>" (upper-case digits); none for any other text.
std::optional<uint8_t> ByteOfToken(absl::string_view token);
std::string TokenOfByte(unsigned char byte);

}  // namespace evolora
