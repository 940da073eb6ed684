#include "evolora/core/json.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <iterator>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "evolora/core/check.h"

namespace evolora {
namespace {

// Bytes of a message of the JSON library that are kept: it quotes the token it could not read,
// which may be as long as the input.
constexpr size_t kMaxReasonBytes = 200;

// "line L, column C: why" for the byte at `offset`.
absl::Status ErrorAt(absl::string_view text, size_t offset, absl::string_view why) {
  const absl::string_view before = text.substr(0, std::min(offset, text.size()));
  const auto line = std::count(before.begin(), before.end(), '\n') + 1;
  const size_t last_break = before.rfind('\n');
  const size_t column =
      last_break == absl::string_view::npos ? before.size() + 1 : before.size() - last_break;
  return absl::InvalidArgumentError(absl::StrCat("line ", line, ", column ", column, ": ", why));
}

// Counts the bytes that the lexer has taken, so that events know where they are.
class CountingIterator {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = const char&;

  CountingIterator(const char* at, size_t* num_taken) : at_(at), num_taken_(num_taken) {}
  reference operator*() const { return *at_; }
  CountingIterator& operator++() {
    ++at_;
    ++*num_taken_;
    return *this;
  }
  CountingIterator operator++(int) {
    CountingIterator old = *this;
    ++*this;
    return old;
  }
  friend bool operator==(const CountingIterator& a, const CountingIterator& b) {
    return a.at_ == b.at_;
  }
  friend bool operator!=(const CountingIterator& a, const CountingIterator& b) { return !(a == b); }

 private:
  const char* at_;
  size_t* num_taken_;
};

// Reads the whole text without building a value: syntax, depth, duplicate keys.
class StrictReader final : public nlohmann::json_sax<Json> {
 public:
  StrictReader(absl::string_view text, const JsonLimits& limits) : text_(text), limits_(limits) {}

  absl::Status Read() {
    CountingIterator begin(text_.data(), &num_taken_);
    CountingIterator end(text_.data() + text_.size(), &num_taken_);
    const bool ok = Json::sax_parse(begin, end, this);
    EVOLORA_CHECK(ok == status_.ok(), "the JSON reader stops with a status or not at all");
    return status_;
  }

  bool null() override { return true; }
  bool boolean(bool) override { return true; }
  bool number_integer(number_integer_t) override { return true; }
  bool number_unsigned(number_unsigned_t) override { return true; }
  bool number_float(number_float_t, const string_t&) override { return true; }
  bool string(string_t&) override { return true; }
  bool binary(binary_t&) override { return true; }
  bool start_object(size_t) override { return Enter(); }
  bool start_array(size_t) override { return Enter(); }
  bool end_object() override { return Leave(); }
  bool end_array() override { return Leave(); }

  bool key(string_t& key) override {
    if (keys_.back().insert(key).second) return true;
    status_ = ErrorAt(text_, KeyStart(),
                      absl::StrCat("duplicate key \"", key.substr(0, kMaxReasonBytes), "\""));
    return false;
  }

  bool parse_error(size_t position, const std::string&, const Json::exception& error) override {
    absl::string_view why = error.what();
    why.remove_prefix(std::min(why.find("] ") + 2, why.size()));  // "[json.exception...] "
    if (absl::ConsumePrefix(&why, "parse error at ")) {
      why.remove_prefix(std::min(why.find(": ") + 2, why.size()));
    }
    status_ = ErrorAt(text_, position > 0 ? position - 1 : 0,
                      ReplaceInvalidUtf8(why.substr(0, kMaxReasonBytes)));
    return false;
  }

 private:
  bool Enter() {
    if (static_cast<int>(keys_.size()) >= limits_.max_depth) {
      status_ = ErrorAt(text_, num_taken_ - 1,
                        absl::StrCat("nested deeper than ", limits_.max_depth, " levels"));
      return false;
    }
    keys_.emplace_back();
    return true;
  }

  bool Leave() {
    keys_.pop_back();
    return true;
  }

  // The opening quote of the key whose closing quote was taken last: the nearest quote to the left
  // that no backslash precedes (inside a string every quote has one).
  size_t KeyStart() const {
    size_t at = num_taken_ - 1;
    do {
      --at;
    } while (at > 0 && !(text_[at] == '"' && text_[at - 1] != '\\'));
    return at;
  }

  absl::string_view text_;
  JsonLimits limits_;
  size_t num_taken_ = 0;
  std::vector<std::set<std::string>> keys_;  // one per open object or array
  absl::Status status_;
};

template <typename JsonType>
absl::StatusOr<JsonType> ParseStrict(absl::string_view text, const JsonLimits& limits) {
  if (text.size() > limits.max_bytes) {
    return absl::InvalidArgumentError(absl::StrCat(
        "line 1, column 1: ", text.size(), " bytes of JSON, the limit is ", limits.max_bytes));
  }
  // The library takes a NUL for the end of the text.
  const size_t nul = text.find('\0');
  if (nul != absl::string_view::npos) return ErrorAt(text, nul, "NUL byte");
  absl::Status status = StrictReader(text, limits).Read();
  if (!status.ok()) return status;
  return JsonType::parse(text.data(), text.data() + text.size(), nullptr,
                         /*allow_exceptions=*/false);
}

void AppendDouble(double value, std::string& out) {
  EVOLORA_CHECK(std::isfinite(value), "JSON has no NaN and no infinity");
  std::array<char, 64> buffer;
  std::to_chars_result end{};
  if (value == std::trunc(value) && value >= -0x1p63 && value < 0x1p63) {
    end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), static_cast<int64_t>(value));
  } else if (value == std::trunc(value) && value >= 0x1p63 && value < 0x1p64) {
    end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), static_cast<uint64_t>(value));
  } else {
    end = std::to_chars(buffer.data(), buffer.data() + buffer.size(), value);
  }
  out.append(buffer.data(), end.ptr);
}

void AppendString(const std::string& text, std::string& out) {
  try {
    out += Json(text).dump(-1, ' ', false, Json::error_handler_t::strict);
  } catch (const Json::exception& error) {
    EVOLORA_CHECK(false, error.what());
  }
}

void AppendCanonical(const Json& value, std::string& out) {
  if (value.is_object()) {
    char separator = '{';
    for (const auto& [key, member] : value.items()) {
      out += std::exchange(separator, ',');
      AppendString(key, out);
      out += ':';
      AppendCanonical(member, out);
    }
    out += separator == '{' ? "{}" : "}";
  } else if (value.is_array()) {
    char separator = '[';
    for (const Json& element : value) {
      out += std::exchange(separator, ',');
      AppendCanonical(element, out);
    }
    out += separator == '[' ? "[]" : "]";
  } else if (value.is_number_float()) {
    AppendDouble(value.get<double>(), out);
  } else if (value.is_string()) {
    AppendString(value.get_ref<const std::string&>(), out);
  } else {
    EVOLORA_CHECK(!value.is_binary() && !value.is_discarded(), "not a JSON value");
    out += value.dump();
  }
}

}  // namespace

absl::StatusOr<Json> ParseJson(absl::string_view text, const JsonLimits& limits) {
  return ParseStrict<Json>(text, limits);
}

absl::StatusOr<OrderedJson> ParseOrderedJson(absl::string_view text, const JsonLimits& limits) {
  return ParseStrict<OrderedJson>(text, limits);
}

std::string CanonicalJson(const Json& value) {
  std::string out;
  AppendCanonical(value, out);
  return out;
}

std::string DisplayJson(const Json& value) {
  return value.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::string ReplaceInvalidUtf8(absl::string_view text) {
  // The library's own decoder: dump a string with replacement and read it back.
  const Json value = std::string(text);
  return Json::parse(DisplayJson(value)).get<std::string>();
}

}  // namespace evolora
