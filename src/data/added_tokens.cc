#include "added_tokens.h"

#include <unicode/uchar.h>

#include <algorithm>

#include "utf8.h"

namespace evolora {
namespace {

// A character of \w: letter, mark, decimal digit, connector (Unicode TR18, compatibility).
bool IsWordCharacter(uint32_t code_point) {
  const auto c = static_cast<UChar32>(code_point);
  return u_hasBinaryProperty(c, UCHAR_ALPHABETIC) || u_hasBinaryProperty(c, UCHAR_JOIN_CONTROL) ||
         (U_GET_GC_MASK(c) & (U_GC_M_MASK | U_GC_ND_MASK | U_GC_PC_MASK)) != 0;
}

size_t PreviousBegin(absl::string_view text, size_t end) {
  size_t begin = end - 1;
  while (begin > 0 && (static_cast<uint8_t>(text[begin]) & 0xC0) == 0x80) --begin;
  return begin;
}

bool TouchesWord(absl::string_view text, size_t begin, size_t end) {
  if (begin > 0 &&
      IsWordCharacter(DecodeUtf8(text.substr(PreviousBegin(text, begin))).code_point)) {
    return true;
  }
  return end < text.size() && IsWordCharacter(DecodeUtf8(text.substr(end)).code_point);
}

size_t SkipSpaceLeft(absl::string_view text, size_t at) {
  while (at > 0) {
    const size_t begin = PreviousBegin(text, at);
    if (!IsWhiteSpace(DecodeUtf8(text.substr(begin)).code_point)) break;
    at = begin;
  }
  return at;
}

size_t SkipSpaceRight(absl::string_view text, size_t at) {
  while (at < text.size()) {
    const Utf8Step step = DecodeUtf8(text.substr(at));
    if (!IsWhiteSpace(step.code_point)) break;
    at += step.num_bytes;
  }
  return at;
}

}  // namespace

AddedTokenMatcher::AddedTokenMatcher(std::vector<AddedToken> tokens)
    : tokens_(std::move(tokens)), nodes_(1) {
  for (size_t t = 0; t < tokens_.size(); ++t) {
    int32_t node = 0;
    for (const char c : tokens_[t].text) {
      auto& children = nodes_[static_cast<size_t>(node)].children;
      const auto it = std::find_if(children.begin(), children.end(),
                                   [c](const auto& child) { return child.first == c; });
      if (it != children.end()) {
        node = it->second;
        continue;
      }
      const int32_t next = static_cast<int32_t>(nodes_.size());
      children.emplace_back(c, next);
      nodes_.emplace_back();
      node = next;
    }
    nodes_[static_cast<size_t>(node)].token = static_cast<int32_t>(t);
    starts_[static_cast<uint8_t>(tokens_[t].text[0])] = true;
  }
}

const AddedToken* AddedTokenMatcher::Longest(absl::string_view text, size_t at, Allow allow) const {
  const AddedToken* best = nullptr;
  const Node* node = &nodes_[0];
  for (size_t end = at; end < text.size(); ++end) {
    const char c = text[end];
    const auto it = std::find_if(node->children.begin(), node->children.end(),
                                 [c](const auto& child) { return child.first == c; });
    if (it == node->children.end()) break;
    node = &nodes_[static_cast<size_t>(it->second)];
    if (node->token < 0) continue;
    const AddedToken& token = tokens_[static_cast<size_t>(node->token)];
    if (allow(token, at, end + 1)) best = &token;
  }
  return best;
}

std::vector<AddedTokenMatcher::Part> AddedTokenMatcher::Split(absl::string_view text,
                                                              Allow allow) const {
  std::vector<Part> parts;
  size_t done = 0;  // end of the last part
  size_t at = 0;
  while (at < text.size()) {
    const AddedToken* token =
        starts_[static_cast<uint8_t>(text[at])] ? Longest(text, at, allow) : nullptr;
    if (token == nullptr) {
      ++at;
      continue;
    }
    size_t begin = at;
    size_t end = at + token->text.size();
    at = end;
    if (token->is_single_word && TouchesWord(text, begin, end)) continue;
    if (token->strips_left) begin = std::max(SkipSpaceLeft(text, begin), done);
    if (token->strips_right) at = end = SkipSpaceRight(text, end);
    if (done < begin) parts.push_back({nullptr, done, begin});
    parts.push_back({token, begin, end});
    done = end;
  }
  if (done < text.size()) parts.push_back({nullptr, done, text.size()});
  return parts;
}

}  // namespace evolora
