#include "byte_letters.h"

#include <array>
#include <cstdint>

#include "utf8.h"

namespace evolora {
namespace {

constexpr char kHexDigits[] = "0123456789ABCDEF";
constexpr uint32_t kNumLetters = 0x144;

struct Alphabet {
  std::array<std::string, 256> letter;
  std::array<int, kNumLetters> byte;  // -1: no letter

  Alphabet() {
    byte.fill(-1);
    uint32_t next = 0x100;
    for (uint32_t b = 0; b < 256; ++b) {
      const bool is_itself = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
      const uint32_t code_point = is_itself ? b : next++;
      AppendUtf8(code_point, letter[b]);
      byte[code_point] = static_cast<int>(b);
    }
  }
};

const Alphabet& TheAlphabet() {
  static const Alphabet& alphabet = *new Alphabet;
  return alphabet;
}

}  // namespace

const std::string& LetterOfByte(unsigned char byte) { return TheAlphabet().letter[byte]; }

std::string BytesToLetters(absl::string_view bytes) {
  std::string letters;
  letters.reserve(bytes.size() * 2);
  for (const char c : bytes) letters += LetterOfByte(static_cast<unsigned char>(c));
  return letters;
}

std::string LettersToBytes(absl::string_view letters) {
  const Alphabet& alphabet = TheAlphabet();
  std::string bytes;
  absl::string_view rest = letters;
  while (!rest.empty()) {
    const Utf8Step step = DecodeUtf8(rest);
    if (step.kind != Utf8Step::Kind::kCharacter || step.code_point >= kNumLetters ||
        alphabet.byte[step.code_point] < 0) {
      return std::string(letters);
    }
    bytes.push_back(static_cast<char>(alphabet.byte[step.code_point]));
    rest.remove_prefix(step.num_bytes);
  }
  return bytes;
}

std::optional<uint8_t> ByteOfToken(absl::string_view token) {
  if (token.size() != 6 || token.substr(0, 3) != "<0x" || token[5] != '>') return std::nullopt;
  const size_t high = absl::string_view(kHexDigits).find(token[3]);
  const size_t low = absl::string_view(kHexDigits).find(token[4]);
  if (high > 15 || low > 15) return std::nullopt;
  return static_cast<uint8_t>(high * 16 + low);
}

std::string TokenOfByte(unsigned char byte) {
  return std::string("<0x") + kHexDigits[byte >> 4] + kHexDigits[byte & 15] + ">";
}

}  // namespace evolora
