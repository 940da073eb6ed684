#include "last_number.h"

#include <cmath>

#include "absl/strings/ascii.h"
#include "absl/strings/charconv.h"

namespace evolora::internal {
namespace {

bool IsDigit(char c) { return c >= '0' && c <= '9'; }
bool IsWord(char c) {
  return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_' || (c & 0x80) != 0;
}

// Reads one unsigned number at `at`; `digits` gets it without thousands separators.
class NumberReader {
 public:
  NumberReader(absl::string_view text, size_t at) : text_(text), at_(at) {}

  size_t Read(std::string& digits) {
    TakeInteger(digits);
    if (Peek() == '.' && IsDigit(Peek(1))) {
      digits.push_back(text_[at_++]);
      TakeDigits(digits);
    }
    TakeExponent(digits);
    return at_;
  }

 private:
  char Peek(size_t ahead = 0) const {
    return at_ + ahead < text_.size() ? text_[at_ + ahead] : '\0';
  }
  void TakeDigits(std::string& digits) {
    while (IsDigit(Peek())) digits.push_back(text_[at_++]);
  }
  bool GroupFollows() const {
    return Peek() == ',' && IsDigit(Peek(1)) && IsDigit(Peek(2)) && IsDigit(Peek(3)) &&
           !IsDigit(Peek(4));
  }
  void TakeInteger(std::string& digits) {
    const size_t before = digits.size();
    TakeDigits(digits);
    if (digits.size() == before || digits.size() - before > 3) return;
    while (GroupFollows()) {
      digits.append(text_.substr(at_ + 1, 3).data(), 3);
      at_ += 4;
    }
  }
  void TakeExponent(std::string& digits) {
    if (Peek() != 'e' && Peek() != 'E') return;
    const size_t sign = Peek(1) == '+' || Peek(1) == '-' ? 1 : 0;
    if (!IsDigit(Peek(1 + sign))) return;
    digits.append(text_.substr(at_, 1 + sign).data(), 1 + sign);
    at_ += 1 + sign;
    TakeDigits(digits);
  }

  absl::string_view text_;
  size_t at_;
};

}  // namespace

std::optional<double> LastNumber(absl::string_view text) {
  std::optional<double> last;
  size_t at = 0;
  while (at < text.size()) {
    const bool starts =
        IsDigit(text[at]) || (text[at] == '.' && at + 1 < text.size() && IsDigit(text[at + 1]));
    if (!starts) {
      ++at;
      continue;
    }
    const char before = at == 0 ? ' ' : text[at - 1];
    std::string digits;
    const bool in_word = IsWord(before);
    if (before == '-' && (at == 1 || (!IsWord(text[at - 2]) && text[at - 2] != ')'))) digits = "-";
    at = NumberReader(text, at).Read(digits);
    double value = 0;
    const auto result = absl::from_chars(digits.data(), digits.data() + digits.size(), value);
    if (!in_word && result.ec == std::errc() && std::isfinite(value)) last = value;
  }
  return last;
}

}  // namespace evolora::internal
