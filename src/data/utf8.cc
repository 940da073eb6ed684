#include "utf8.h"

#include <cstring>

namespace evolora {
namespace {

// What may follow a lead byte (Unicode 15, table 3-7): the range of the second byte, and the number
// of bytes. Later bytes are 80..BF.
struct LeadByte {
  int num_bytes;
  uint8_t second_min;
  uint8_t second_max;
};

LeadByte Classify(uint8_t lead) {
  if (lead < 0x80) return {1, 0, 0};
  if (lead < 0xC2) return {0, 0, 0};
  if (lead < 0xE0) return {2, 0x80, 0xBF};
  if (lead == 0xE0) return {3, 0xA0, 0xBF};
  if (lead == 0xED) return {3, 0x80, 0x9F};
  if (lead < 0xF0) return {3, 0x80, 0xBF};
  if (lead == 0xF0) return {4, 0x90, 0xBF};
  if (lead < 0xF4) return {4, 0x80, 0xBF};
  if (lead == 0xF4) return {4, 0x80, 0x8F};
  return {0, 0, 0};
}

bool IsPythonSpace(uint32_t code_point) {
  return IsWhiteSpace(code_point) || (code_point >= 0x1C && code_point <= 0x1F);
}

// Start of the character that ends at `end`.
size_t PreviousCharacter(absl::string_view text, size_t end) {
  size_t begin = end - 1;
  while (begin > 0 && (static_cast<uint8_t>(text[begin]) & 0xC0) == 0x80) --begin;
  return begin;
}

}  // namespace

Utf8Step DecodeUtf8(absl::string_view text) {
  const uint8_t lead = static_cast<uint8_t>(text[0]);
  const LeadByte rule = Classify(lead);
  if (rule.num_bytes == 0) return {Utf8Step::Kind::kInvalid, 0, 1};
  if (rule.num_bytes == 1) return {Utf8Step::Kind::kCharacter, lead, 1};
  uint32_t code_point = lead & (0x7Fu >> rule.num_bytes);
  for (int i = 1; i < rule.num_bytes; ++i) {
    const size_t at = static_cast<size_t>(i);
    if (at >= text.size()) return {Utf8Step::Kind::kIncomplete, 0, at};
    const uint8_t byte = static_cast<uint8_t>(text[at]);
    const uint8_t min = i == 1 ? rule.second_min : 0x80;
    const uint8_t max = i == 1 ? rule.second_max : 0xBF;
    if (byte < min || byte > max) return {Utf8Step::Kind::kInvalid, 0, at};
    code_point = (code_point << 6) | (byte & 0x3Fu);
  }
  return {Utf8Step::Kind::kCharacter, code_point, static_cast<size_t>(rule.num_bytes)};
}

size_t ValidUtf8Prefix(absl::string_view text) {
  size_t at = 0;
  while (at < text.size()) {
    uint64_t word;
    if (at + sizeof(word) <= text.size()) {
      std::memcpy(&word, text.data() + at, sizeof(word));
      if ((word & 0x8080808080808080u) == 0) {
        at += sizeof(word);
        continue;
      }
    }
    const Utf8Step step = DecodeUtf8(text.substr(at));
    if (step.kind != Utf8Step::Kind::kCharacter) break;
    at += step.num_bytes;
  }
  return at;
}

void AppendUtf8(uint32_t code_point, std::string& out) {
  const auto push = [&out](uint32_t byte) { out.push_back(static_cast<char>(byte)); };
  if (code_point < 0x80) {
    push(code_point);
  } else if (code_point < 0x800) {
    push(0xC0 | (code_point >> 6));
    push(0x80 | (code_point & 0x3F));
  } else if (code_point < 0x10000) {
    push(0xE0 | (code_point >> 12));
    push(0x80 | ((code_point >> 6) & 0x3F));
    push(0x80 | (code_point & 0x3F));
  } else {
    push(0xF0 | (code_point >> 18));
    push(0x80 | ((code_point >> 12) & 0x3F));
    push(0x80 | ((code_point >> 6) & 0x3F));
    push(0x80 | (code_point & 0x3F));
  }
}

bool IsWhiteSpace(uint32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

absl::string_view PythonStrip(absl::string_view text) {
  while (!text.empty()) {
    const Utf8Step step = DecodeUtf8(text);
    if (!IsPythonSpace(step.code_point)) break;
    text.remove_prefix(step.num_bytes);
  }
  while (!text.empty()) {
    const size_t begin = PreviousCharacter(text, text.size());
    if (!IsPythonSpace(DecodeUtf8(text.substr(begin)).code_point)) break;
    text.remove_suffix(text.size() - begin);
  }
  return text;
}

}  // namespace evolora
