#include "regex_translate.h"

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "evolora/core/status_macros.h"

namespace evolora {
namespace {

// White_Space (Unicode), as the inside of a class.
constexpr char kWhiteSpace[] =
    "\\x{09}-\\x{0D}\\x{20}\\x{85}\\x{A0}\\x{1680}\\x{2000}-\\x{200A}\\x{2028}\\x{2029}\\x{202F}"
    "\\x{205F}\\x{3000}";

class Translator {
 public:
  explicit Translator(absl::string_view pattern) : pattern_(pattern) {}

  absl::StatusOr<std::string> Run() {
    while (at_ < pattern_.size()) RETURN_IF_ERROR(Next());
    return std::move(out_);
  }

 private:
  absl::Status Unknown(absl::string_view what) const {
    return absl::UnimplementedError(
        absl::StrCat("regex construct ", what, " at byte ", at_, " of '", pattern_, "'"));
  }
  char Peek(size_t ahead = 0) const {
    return at_ + ahead < pattern_.size() ? pattern_[at_ + ahead] : '\0';
  }
  void Copy(size_t n) {
    absl::StrAppend(&out_, pattern_.substr(at_, n));
    at_ += n;
  }

  absl::Status Next() {
    const char c = Peek();
    switch (c) {
      case '\\':
        return Escape(/*in_class=*/false);
      case '[':
        return Class();
      case '(':
        return Group();
      case '{':
        return Repeat();
      case '*':
      case '+':
      case '?':
        Copy(1);
        if (Peek() == '+' || Peek() == '?') Copy(1);
        return absl::OkStatus();
      case '^':
      case '$':
      case '.':
      case ']':
      case '}':
        return Unknown(absl::StrCat("'", std::string(1, c), "'"));
      default:
        Copy(1);  // ')' '|' and literals; bytes of a longer character follow one by one
        return absl::OkStatus();
    }
  }

  absl::Status Group() {
    if (Peek(1) == '?') {
      const absl::string_view rest = pattern_.substr(at_);
      for (const absl::string_view open : {"(?:", "(?=", "(?!", "(?i:"}) {
        if (rest.substr(0, open.size()) == open) {
          Copy(open.size());
          return absl::OkStatus();
        }
      }
      return Unknown("'(?'");
    }
    if (Peek(1) == '*') return Unknown("'(*'");
    Copy(1);
    return absl::OkStatus();
  }

  // {n} {n,} {n,m}. Ruby reads "{n}+" as a repeated repeat, PCRE2 as possessive: refused.
  absl::Status Repeat() {
    size_t end = at_ + 1;
    const auto skip_digits = [&] {
      const size_t begin = end;
      while (end < pattern_.size() && absl::ascii_isdigit(pattern_[end])) ++end;
      return end - begin;
    };
    const size_t num_digits = skip_digits();
    if (num_digits == 0 || num_digits > 4) return Unknown("'{'");
    if (end < pattern_.size() && pattern_[end] == ',') {
      ++end;
      if (skip_digits() > 4) return Unknown("'{'");
    }
    if (end >= pattern_.size() || pattern_[end] != '}') return Unknown("'{'");
    Copy(end + 1 - at_);
    if (Peek() == '+' || Peek() == '?') return Unknown("'}' followed by '+' or '?'");
    return absl::OkStatus();
  }

  absl::Status Class() {
    Copy(1);
    if (Peek() == '^') Copy(1);
    if (Peek() == ']') return Unknown("'[]'");
    while (Peek() != ']') {
      if (at_ >= pattern_.size()) return Unknown("'[' without ']'");
      if (Peek() == '[') return Unknown("'[' inside a class");
      if (Peek() == '&' && Peek(1) == '&') return Unknown("'&&' inside a class");
      if (Peek() == '\\') {
        RETURN_IF_ERROR(Escape(/*in_class=*/true));
      } else {
        Copy(1);
      }
    }
    Copy(1);
    return absl::OkStatus();
  }

  absl::Status Escape(bool in_class) {
    const char c = Peek(1);
    if (c == 'p' || c == 'P') return Property();
    if (c == 's') return Emit(in_class ? kWhiteSpace : absl::StrCat("[", kWhiteSpace, "]"));
    if (c == 'S' && !in_class) return Emit(absl::StrCat("[^", kWhiteSpace, "]"));
    if (c == 'd') return Emit("\\p{Nd}");
    if (c == 'r' || c == 'n' || c == 't' || absl::ascii_ispunct(static_cast<unsigned char>(c))) {
      Copy(2);
      return absl::OkStatus();
    }
    return Unknown(absl::StrCat("'\\", std::string(1, c == '\0' ? ' ' : c), "'"));
  }

  absl::Status Emit(absl::string_view text) {
    absl::StrAppend(&out_, text);
    at_ += 2;
    return absl::OkStatus();
  }

  // \p{L}, \p{Lu}: general categories only; script names differ between the engines' versions.
  absl::Status Property() {
    const size_t close = pattern_.find('}', at_);
    if (Peek(2) != '{' || close == absl::string_view::npos) return Unknown("'\\p' without {..}");
    const absl::string_view name = pattern_.substr(at_ + 3, close - at_ - 3);
    const bool known = (name.size() == 1 || name.size() == 2) &&
                       absl::string_view("LMNPSZC").find(name[0]) != absl::string_view::npos &&
                       (name.size() == 1 || absl::ascii_islower(name[1]));
    if (!known) return Unknown(absl::StrCat("property '", name, "'"));
    Copy(close + 1 - at_);
    return absl::OkStatus();
  }

  absl::string_view pattern_;
  size_t at_ = 0;
  std::string out_;
};

}  // namespace

absl::StatusOr<std::string> TranslateRegex(absl::string_view pattern) {
  return Translator(pattern).Run();
}

}  // namespace evolora
