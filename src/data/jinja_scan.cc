#include "jinja_scan.h"

#include <algorithm>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "evolora/core/status_macros.h"
#include "utf8.h"

namespace evolora {
namespace {

using Kind = JinjaToken::Kind;

class Scanner {
 public:
  explicit Scanner(absl::string_view text) : text_(text) {}

  absl::StatusOr<std::vector<JinjaToken>> Run() {
    while (at_ < text_.size()) {
      const size_t brace = FindTag();
      if (brace > at_)
        tokens_.push_back({Kind::kData, std::string(text_.substr(at_, brace - at_))});
      at_ = brace;
      if (at_ == text_.size()) break;
      RETURN_IF_ERROR(Tag());
    }
    return std::move(tokens_);
  }

 private:
  absl::Status Bad(absl::string_view why) const {
    return absl::InvalidArgumentError(absl::StrCat("template at byte ", at_, ": ", why));
  }
  char Peek(size_t ahead = 0) const {
    return at_ + ahead < text_.size() ? text_[at_ + ahead] : '\0';
  }

  // The next "{{", "{%" or "{#", or the end.
  size_t FindTag() const {
    for (size_t i = at_; i + 1 < text_.size(); ++i) {
      const char next = text_[i + 1];
      if (text_[i] == '{' && (next == '{' || next == '%' || next == '#')) return i;
    }
    return text_.size();
  }

  absl::Status Tag() {
    if (Peek(1) == '#') {
      const size_t end = text_.find("#}", at_ + 2);
      if (end == absl::string_view::npos) return Bad("a comment without end");
      at_ = end + 2;
      return absl::OkStatus();
    }
    const std::string open(text_.substr(at_, 2));
    const std::string close = open == "{{" ? "}}" : "%}";
    tokens_.push_back({Kind::kTag, open});
    at_ += 2;
    if (Peek() == '-' || Peek() == '+') ++at_;
    while (at_ < text_.size()) {
      const size_t skip = Peek() == '-' || Peek() == '+' ? 1 : 0;
      if (text_.substr(at_ + skip, 2) == close) {
        at_ += skip + 2;
        tokens_.push_back({Kind::kTag, close});
        return absl::OkStatus();
      }
      RETURN_IF_ERROR(Inside());
    }
    return Bad("a tag without end");
  }

  absl::Status Inside() {
    const char c = Peek();
    if (absl::ascii_isspace(static_cast<unsigned char>(c))) {
      ++at_;
    } else if (c == '\'' || c == '"') {
      return String();
    } else if (absl::ascii_isalpha(static_cast<unsigned char>(c)) || c == '_') {
      const size_t begin = at_;
      while (absl::ascii_isalnum(static_cast<unsigned char>(Peek())) || Peek() == '_') ++at_;
      tokens_.push_back({Kind::kName, std::string(text_.substr(begin, at_ - begin))});
    } else {
      const bool two = Peek(1) == '=' && (c == '=' || c == '!' || c == '<' || c == '>');
      tokens_.push_back({Kind::kOperator, std::string(text_.substr(at_, two ? 2 : 1))});
      at_ += two ? 2 : 1;
    }
    return absl::OkStatus();
  }

  absl::Status String() {
    const char quote = Peek();
    std::string value;
    size_t i = at_ + 1;
    while (i < text_.size() && text_[i] != quote) {
      if (text_[i] != '\\' || i + 1 == text_.size()) {
        value.push_back(text_[i++]);
      } else {
        i = Escape(i + 1, value);
      }
    }
    if (i >= text_.size()) return Bad("a literal without end");
    at_ = i + 1;
    tokens_.push_back({Kind::kString, std::move(value)});
    return absl::OkStatus();
  }

  // Python's escapes; an unknown one stays as it is written. Returns the place behind it.
  size_t Escape(size_t i, std::string& value) const {
    static constexpr absl::string_view kFrom = "ntr\\'\"abfv0";
    static constexpr absl::string_view kTo("\n\t\r\\'\"\a\b\f\v\0", 11);
    const size_t simple = kFrom.find(text_[i]);
    if (simple != absl::string_view::npos) {
      value.push_back(kTo[simple]);
      return i + 1;
    }
    const size_t digits = text_[i] == 'x' ? 2 : text_[i] == 'u' ? 4 : text_[i] == 'U' ? 8 : 0;
    uint32_t code = 0;
    size_t n = 0;
    while (n < digits && i + 1 + n < text_.size()) {
      const size_t digit =
          absl::string_view("0123456789abcdef")
              .find(absl::ascii_tolower(static_cast<unsigned char>(text_[i + 1 + n])));
      if (digit > 15) break;
      code = code * 16 + static_cast<uint32_t>(digit);
      ++n;
    }
    const bool is_scalar = code <= 0x10FFFF && (code < 0xD800 || code > 0xDFFF);
    if (digits == 0 || n != digits || !is_scalar) {
      value.push_back('\\');
      return i;
    }
    AppendUtf8(code, value);
    return i + 1 + digits;
  }

  absl::string_view text_;
  size_t at_ = 0;
  std::vector<JinjaToken> tokens_;
};

bool IsTagOf(const std::vector<JinjaToken>& tokens, size_t i, absl::string_view name) {
  return i + 1 < tokens.size() && tokens[i].kind == Kind::kTag && tokens[i].text == "{%" &&
         tokens[i + 1].kind == Kind::kName && tokens[i + 1].text == name;
}

bool IsIfTools(const std::vector<JinjaToken>& tokens, size_t i) {
  return IsTagOf(tokens, i, "if") && i + 3 < tokens.size() && tokens[i + 2].text == "tools" &&
         tokens[i + 3].text == "%}";
}

// The first else, elif or endif of the if at `i`; its tag stays.
size_t EndOfBranch(const std::vector<JinjaToken>& tokens, size_t i) {
  int depth = 0;
  for (size_t k = i; k < tokens.size(); ++k) {
    if (IsTagOf(tokens, k, "if")) ++depth;
    if (IsTagOf(tokens, k, "endif")) --depth;
    const bool is_else = IsTagOf(tokens, k, "else") || IsTagOf(tokens, k, "elif");
    if (depth == 0 || (depth == 1 && is_else)) return k;
  }
  return tokens.size();
}

}  // namespace

absl::StatusOr<std::vector<JinjaToken>> ScanJinja(absl::string_view text) {
  return Scanner(text).Run();
}

std::vector<JinjaToken> DropToolBranches(const std::vector<JinjaToken>& tokens) {
  std::vector<JinjaToken> kept;
  for (size_t i = 0; i < tokens.size();) {
    if (IsIfTools(tokens, i)) {
      i = EndOfBranch(tokens, i);
    } else {
      kept.push_back(tokens[i++]);
    }
  }
  return kept;
}

}  // namespace evolora
