#include "evolora/core/trigger.h"

#include <re2/re2.h>

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "evolora/core/check.h"
#include "evolora/core/status_macros.h"
#include "fold.h"

namespace evolora {
namespace {

constexpr size_t kMaxTerms = 64;
constexpr size_t kMaxTermBytes = 4096;
constexpr size_t kMaxRegexBytes = 2000;
constexpr int64_t kMaxRegexMemoryBytes = 1 << 20;

RE2::Options RegexOptions() {
  RE2::Options options(RE2::Quiet);
  options.set_case_sensitive(false);
  options.set_max_mem(kMaxRegexMemoryBytes);
  return options;
}

absl::Status ValidateTerms(absl::string_view field, const std::vector<std::string>& terms) {
  if (terms.size() > kMaxTerms) {
    return absl::InvalidArgumentError(
        absl::StrCat("trigger.", field, ": ", terms.size(), " terms, the limit is ", kMaxTerms));
  }
  for (const std::string& term : terms) {
    if (absl::StripAsciiWhitespace(term).empty()) {
      return absl::InvalidArgumentError(absl::StrCat("trigger.", field, ": an empty term"));
    }
    if (term.size() > kMaxTermBytes) {
      return absl::InvalidArgumentError(absl::StrCat("trigger.", field, ": a term of ", term.size(),
                                                     " bytes, the limit is ", kMaxTermBytes));
    }
  }
  return absl::OkStatus();
}

bool RegexMatches(const std::string& pattern, const std::string& folded) {
  const RE2 regex(pattern, RegexOptions());
  EVOLORA_CHECK(regex.ok(), "Matches needs a valid trigger");
  return RE2::PartialMatch(folded, regex);
}

bool IsEmpty(const Trigger& trigger) {
  return trigger.all_of.empty() && trigger.any_of.empty() && trigger.none_of.empty() &&
         trigger.regex.empty();
}

}  // namespace

std::string FoldText(absl::string_view text) {
  std::string folded;
  folded.reserve(text.size());
  bool after_space = false;
  for (const char c : text) {
    const bool is_space = absl::ascii_isspace(static_cast<unsigned char>(c));
    if (!is_space) folded += absl::ascii_tolower(static_cast<unsigned char>(c));
    if (is_space && !after_space) folded += ' ';
    after_space = is_space;
  }
  return folded;
}

std::string RequestText(absl::Span<const Message> messages) {
  std::string text;
  bool first = true;
  for (const Message& message : messages) {
    if (message.role != "system" && message.role != "user") continue;
    absl::StrAppend(&text, first ? "" : "\n", message.content);
    first = false;
  }
  return text;
}

absl::Status ValidateTrigger(const Trigger& trigger) {
  if (trigger.all && !IsEmpty(trigger)) {
    return absl::InvalidArgumentError("trigger.all: stands alone, but other parts are set");
  }
  RETURN_IF_ERROR(ValidateTerms("all_of", trigger.all_of));
  RETURN_IF_ERROR(ValidateTerms("any_of", trigger.any_of));
  RETURN_IF_ERROR(ValidateTerms("none_of", trigger.none_of));
  if (trigger.regex.empty()) return absl::OkStatus();
  if (trigger.regex.size() > kMaxRegexBytes) {
    return absl::InvalidArgumentError(absl::StrCat("trigger.regex: ", trigger.regex.size(),
                                                   " bytes, the limit is ", kMaxRegexBytes));
  }
  const RE2 regex(trigger.regex, RegexOptions());
  if (regex.ok()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("trigger.regex: ", regex.error()));
}

bool Matches(const Trigger& trigger, absl::string_view request_text) {
  if (trigger.all) return true;
  if (IsEmpty(trigger)) return false;
  const std::string folded = FoldText(request_text);
  const auto occurs = [&folded](const std::string& term) {
    return absl::StrContains(folded, FoldText(term));
  };
  if (!std::all_of(trigger.all_of.begin(), trigger.all_of.end(), occurs)) return false;
  if (std::any_of(trigger.none_of.begin(), trigger.none_of.end(), occurs)) return false;
  if (!trigger.any_of.empty() &&
      std::none_of(trigger.any_of.begin(), trigger.any_of.end(), occurs)) {
    return false;
  }
  return trigger.regex.empty() || RegexMatches(trigger.regex, folded);
}

Json TriggerToJson(const Trigger& trigger) {
  Json json = Json::object();
  if (trigger.all) json["all"] = true;
  if (!trigger.all_of.empty()) json["all_of"] = trigger.all_of;
  if (!trigger.any_of.empty()) json["any_of"] = trigger.any_of;
  if (!trigger.none_of.empty()) json["none_of"] = trigger.none_of;
  if (!trigger.regex.empty()) json["regex"] = trigger.regex;
  return json;
}

absl::StatusOr<Trigger> TriggerFromJson(const Json& json, const std::string& path) {
  JsonFields fields(json, path);
  Trigger trigger;
  trigger.all = fields.OptionalBool("all").value_or(false);
  if (fields.Has("all_of")) trigger.all_of = fields.StringArray("all_of");
  if (fields.Has("any_of")) trigger.any_of = fields.StringArray("any_of");
  if (fields.Has("none_of")) trigger.none_of = fields.StringArray("none_of");
  trigger.regex = fields.OptionalString("regex").value_or("");
  RETURN_IF_ERROR(fields.Done());
  if (absl::Status status = ValidateTrigger(trigger); !status.ok()) return Annotate(status, path);
  return trigger;
}

}  // namespace evolora
