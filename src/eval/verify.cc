#include "evolora/eval/verify.h"

#include <re2/re2.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "evolora/core/json.h"
#include "last_number.h"
#include "tool_call.h"

namespace evolora {
namespace {

constexpr size_t kMaxOutputBytes = 64u << 10;
constexpr int64_t kMaxRegexMemoryBytes = 1 << 20;

Feedback Right() { return {.success = true, .score = 1}; }
Feedback Wrong(std::string detail) { return {.success = false, .detail = std::move(detail)}; }

std::string AnyOf(const VerifySpec& spec) {
  return absl::StrCat("'", absl::StrJoin(spec.any_of, "' or '"), "'");
}

// What models write for plain ASCII: quotes, dashes, the minus sign and hard spaces.
std::string ToPlain(absl::string_view text) {
  static constexpr std::array<std::pair<absl::string_view, char>, 15> kForms = {{
      {"\xC2\xA0", ' '},      // U+00A0 no-break space
      {"\xE2\x80\xAF", ' '},  // U+202F narrow no-break space
      {"\xE2\x80\x89", ' '},  // U+2009 thin space
      {"\xE3\x80\x80", ' '},  // U+3000 ideographic space
      {"\xE2\x80\x98", '\''},
      {"\xE2\x80\x99", '\''},
      {"\xE2\x80\x9A", '\''},
      {"\xE2\x80\x9C", '"'},
      {"\xE2\x80\x9D", '"'},
      {"\xE2\x80\x9E", '"'},
      {"\xE2\x80\x90", '-'},  // U+2010 hyphen
      {"\xE2\x80\x91", '-'},  // U+2011 no-break hyphen
      {"\xE2\x80\x93", '-'},
      {"\xE2\x80\x94", '-'},
      {"\xE2\x88\x92", '-'},  // U+2212 minus
  }};
  std::string out;
  while (!text.empty()) {
    const auto form = (text[0] & 0x80) == 0
                          ? kForms.end()
                          : std::find_if(kForms.begin(), kForms.end(), [&](const auto& f) {
                              return absl::StartsWith(text, f.first);
                            });
    out.push_back(form == kForms.end() ? text[0] : form->second);
    text.remove_prefix(form == kForms.end() ? 1 : form->first.size());
  }
  return out;
}

std::string PhraseForm(absl::string_view text) {
  std::string out = ToPlain(text);
  absl::RemoveExtraAsciiWhitespace(&out);
  std::replace_if(
      out.begin(), out.end(),
      [](char c) { return absl::ascii_isspace(static_cast<unsigned char>(c)); }, ' ');
  absl::AsciiStrToLower(&out);
  return out;
}

bool IsWord(char c) {
  return absl::ascii_isalnum(static_cast<unsigned char>(c)) || c == '_' || (c & 0x80) != 0;
}

// Whether no word runs across the two ends of text[at, end).
bool StandsAlone(absl::string_view text, size_t at, size_t end) {
  const bool joined_before = at > 0 && IsWord(text[at]) && IsWord(text[at - 1]);
  const bool joined_after = end < text.size() && IsWord(text[end - 1]) && IsWord(text[end]);
  return !joined_before && !joined_after;
}

// First place of `phrase` in `text` where it stands alone; npos when there is none.
size_t FindAlone(absl::string_view text, absl::string_view phrase) {
  for (size_t at = text.find(phrase); at != text.npos; at = text.find(phrase, at + 1)) {
    if (StandsAlone(text, at, at + phrase.size())) return at;
  }
  return absl::string_view::npos;
}

Feedback VerifyExact(const VerifySpec& spec, absl::string_view output) {
  const absl::string_view trimmed = absl::StripAsciiWhitespace(output);
  for (const std::string& text : spec.any_of) {
    if (trimmed == absl::StripAsciiWhitespace(text)) return Right();
  }
  return Wrong(absl::StrCat("expected exactly ", AnyOf(spec)));
}

Feedback VerifyContains(const VerifySpec& spec, absl::string_view output) {
  const std::string text = PhraseForm(output);
  for (const std::string& phrase : spec.any_of) {
    if (FindAlone(text, PhraseForm(phrase)) != std::string::npos) return Right();
  }
  return Wrong(absl::StrCat("the phrase ", AnyOf(spec), " does not occur"));
}

RE2::Options RegexOptions() {
  RE2::Options options(RE2::Quiet);
  options.set_max_mem(kMaxRegexMemoryBytes);
  return options;
}

Feedback VerifyRegex(const VerifySpec& spec, absl::string_view output) {
  const RE2 regex(spec.pattern, RegexOptions());
  if (RE2::PartialMatch(re2::StringPiece(output.data(), output.size()), regex)) return Right();
  return Wrong(absl::StrCat("the pattern '", spec.pattern, "' is not found"));
}

Feedback VerifyNumber(const VerifySpec& spec, absl::string_view output) {
  const std::optional<double> found = internal::LastNumber(ToPlain(output));
  if (!found) return Wrong("no number");
  if (std::abs(*found - spec.number) <= spec.tolerance) return Right();
  return Wrong(absl::StrCat("the last number is ", *found, ", expected ", spec.number,
                            spec.tolerance > 0 ? absl::StrCat(" +- ", spec.tolerance) : ""));
}

Feedback VerifyChoice(const VerifySpec& spec, absl::string_view output) {
  const std::string plain = ToPlain(output);
  const std::string folded = absl::AsciiStrToLower(plain);
  const std::string* first = nullptr;
  size_t first_at = std::string::npos;
  for (const std::string& label : spec.choices) {
    const size_t at = label.size() == 1 ? FindAlone(plain, label)
                                        : FindAlone(folded, absl::AsciiStrToLower(label));
    // Of two labels at one place the longer one is meant.
    if (at == std::string::npos || at > first_at) continue;
    if (at == first_at && label.size() <= first->size()) continue;
    first = &label;
    first_at = at;
  }
  if (first == nullptr) return Wrong("none of the labels stands in the output");
  if (std::find(spec.any_of.begin(), spec.any_of.end(), *first) != spec.any_of.end()) {
    return Right();
  }
  return Wrong(absl::StrCat("chose '", *first, "', expected ", AnyOf(spec)));
}

absl::Status ValidateTexts(absl::string_view field, const std::vector<std::string>& texts) {
  if (texts.empty()) return absl::InvalidArgumentError(absl::StrCat(field, " is empty"));
  for (const std::string& text : texts) {
    if (PhraseForm(text).empty()) {
      return absl::InvalidArgumentError(absl::StrCat(field, " holds a blank text"));
    }
  }
  return absl::OkStatus();
}

absl::Status ValidateChoice(const VerifySpec& spec) {
  for (const auto& [field, texts] :
       {std::pair{"choices", &spec.choices}, std::pair{"any_of", &spec.any_of}}) {
    if (absl::Status status = ValidateTexts(field, *texts); !status.ok()) return status;
  }
  for (const std::string& label : spec.any_of) {
    if (std::find(spec.choices.begin(), spec.choices.end(), label) == spec.choices.end()) {
      return absl::InvalidArgumentError(absl::StrCat("label '", label, "' is no choice"));
    }
  }
  return absl::OkStatus();
}

absl::Status ValidateToolCall(const VerifySpec& spec) {
  static constexpr std::array<absl::string_view, 7> kTypes = {
      "string", "integer", "number", "boolean", "array", "object", "any"};
  if (spec.tool_name.empty()) return absl::InvalidArgumentError("no tool name");
  for (const auto& [name, argument] : spec.arguments) {
    if (std::find(kTypes.begin(), kTypes.end(), argument.type) == kTypes.end()) {
      return absl::InvalidArgumentError(
          absl::StrCat("argument '", name, "': unknown type '", argument.type, "'"));
    }
    if (argument.any_of.empty()) {
      return absl::InvalidArgumentError(absl::StrCat("argument '", name, "': no allowed value"));
    }
  }
  return absl::OkStatus();
}

absl::Status ValidateRegex(const VerifySpec& spec) {
  const RE2 regex(spec.pattern, RegexOptions());
  if (!spec.pattern.empty() && regex.ok()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("pattern '", spec.pattern, "': ", regex.ok() ? "empty" : regex.error()));
}

}  // namespace

absl::Status ValidateSpec(const VerifySpec& spec) {
  switch (spec.type) {
    case VerifyType::kExact:
      if (!spec.any_of.empty()) return absl::OkStatus();
      return absl::InvalidArgumentError("any_of is empty");
    case VerifyType::kContains:
      return ValidateTexts("any_of", spec.any_of);
    case VerifyType::kRegex:
      return ValidateRegex(spec);
    case VerifyType::kNumber:
      if (std::isfinite(spec.number) && spec.tolerance >= 0) return absl::OkStatus();
      return absl::InvalidArgumentError(
          absl::StrCat("value ", spec.number, ", tolerance ", spec.tolerance));
    case VerifyType::kChoice:
      return ValidateChoice(spec);
    case VerifyType::kToolCall:
      return ValidateToolCall(spec);
  }
  return absl::InvalidArgumentError("unknown verify type");
}

Feedback Verify(const VerifySpec& spec, absl::string_view output) {
  if (const absl::Status status = ValidateSpec(spec); !status.ok()) {
    return Wrong(absl::StrCat("verifier: ", status.message()));
  }
  if (output.size() > kMaxOutputBytes) {
    return Wrong(absl::StrCat("output of ", output.size(), " bytes, at most ", kMaxOutputBytes));
  }
  switch (spec.type) {
    case VerifyType::kExact:
      return VerifyExact(spec, output);
    case VerifyType::kContains:
      return VerifyContains(spec, output);
    case VerifyType::kRegex:
      return VerifyRegex(spec, output);
    case VerifyType::kNumber:
      return VerifyNumber(spec, output);
    case VerifyType::kChoice:
      return VerifyChoice(spec, output);
    case VerifyType::kToolCall:
      return internal::VerifyToolCall(spec, output);
  }
  return Wrong("verifier: unknown verify type");
}

}  // namespace evolora
