#include "tool_call.h"

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "evolora/core/json.h"

namespace evolora::internal {
namespace {

constexpr JsonLimits kOutputLimits{.max_bytes = 64u << 10, .max_depth = 32};
constexpr size_t kShownBytes = 200;

Feedback Wrong(std::string detail) { return {.success = false, .detail = std::move(detail)}; }

std::string Shown(const Json& value) {
  std::string text = DisplayJson(value);
  if (text.size() > kShownBytes) text = absl::StrCat(text.substr(0, kShownBytes), "...");
  return ReplaceInvalidUtf8(text);
}

bool StripBoth(absl::string_view& text, absl::string_view open, absl::string_view close) {
  absl::string_view inner = text;
  if (!absl::ConsumePrefix(&inner, open) || !absl::ConsumeSuffix(&inner, close)) return false;
  text = absl::StripAsciiWhitespace(inner);
  return true;
}

// Takes at most one fence and one <tool_call> tag, in either order, off the output.
absl::string_view Unwrap(absl::string_view text) {
  text = absl::StripAsciiWhitespace(text);
  const bool was_tagged = StripBoth(text, "<tool_call>", "</tool_call>");
  if (!StripBoth(text, "```json", "```")) StripBoth(text, "```", "```");
  if (!was_tagged) StripBoth(text, "<tool_call>", "</tool_call>");
  return text;
}

std::string StandardForm(absl::string_view text) {
  std::string out;
  for (const char c : text) {
    if (absl::StrContains(" ,./-_*^", c)) continue;
    out.push_back(c == '\'' ? '"' : absl::ascii_tolower(static_cast<unsigned char>(c)));
  }
  return out;
}

// "" among the allowed values says that the argument may be missing.
bool MayBeMissing(const Json& allowed) {
  return std::any_of(allowed.begin(), allowed.end(), [](const Json& v) { return v == ""; });
}

bool IsAllowedObject(const Json& value, const Json& allowed);

// `allowed` is one allowed value. Types of JSON decide, except that 1 equals 1.0. An object inside
// an object may also stand as it is, without lists of allowed values.
bool IsAllowed(const Json& value, const Json& allowed, bool inside_object) {
  if (value.is_string() && allowed.is_string()) {
    return StandardForm(value.get_ref<const std::string&>()) ==
           StandardForm(allowed.get_ref<const std::string&>());
  }
  if (value.is_array() && allowed.is_array()) {
    return std::equal(value.begin(), value.end(), allowed.begin(), allowed.end(),
                      [&](const Json& a, const Json& b) { return IsAllowed(a, b, inside_object); });
  }
  if (value.is_object() && allowed.is_object()) {
    return (inside_object && value == allowed) || IsAllowedObject(value, allowed);
  }
  return value == allowed;
}

bool IsAllowedByAny(const Json& value, const Json& options, bool inside_object = false) {
  return std::any_of(options.begin(), options.end(),
                     [&](const Json& option) { return IsAllowed(value, option, inside_object); });
}

// `allowed` holds for each key the list of its allowed values; a bare value stands for itself.
bool IsAllowedObject(const Json& value, const Json& allowed) {
  for (const auto& [key, item] : value.items()) {
    const auto options = allowed.find(key);
    if (options == allowed.end()) return false;
    const bool good = options->is_array() ? IsAllowedByAny(item, *options, true)
                                          : IsAllowed(item, *options, true);
    if (!good) return false;
  }
  for (const auto& [key, options] : allowed.items()) {
    if (!value.contains(key) && !(options.is_array() && MayBeMissing(options))) return false;
  }
  return true;
}

bool HasType(const Json& value, const std::string& type) {
  if (type == "string") return value.is_string();
  if (type == "integer") return value.is_number_integer();
  if (type == "number") return value.is_number();
  if (type == "boolean") return value.is_boolean();
  if (type == "array") return value.is_array();
  if (type == "object") return value.is_object();
  return true;  // any
}

// BFCL writes a variable's name where the declared type allows no string: the first real answer
// then tells the type, and the value must be equal as it stands.
bool HasTypeOfAnswer(const Json& value, const Json& allowed) {
  const auto first =
      std::find_if(allowed.begin(), allowed.end(), [](const Json& v) { return v != ""; });
  if (first == allowed.end()) return false;
  if (first->is_number() && value.is_number()) {
    return first->is_number_integer() == value.is_number_integer();
  }
  return first->type() == value.type();
}

// "" when the value is good.
std::string WhyWrong(const std::string& name, const ArgumentSpec& spec, const Json& value) {
  const Json allowed = spec.any_of;
  if (HasType(value, spec.type)) {
    if (IsAllowedByAny(value, allowed)) return "";
  } else if (HasTypeOfAnswer(value, allowed)) {
    if (std::find(allowed.begin(), allowed.end(), value) != allowed.end()) return "";
  } else {
    return absl::StrCat("argument '", name, "' must be of type ", spec.type, ", not ",
                        value.is_number_float() ? "a float" : value.type_name(), ": ",
                        Shown(value));
  }
  return absl::StrCat("argument '", name, "' is ", Shown(value), ", expected one of ",
                      Shown(allowed));
}

Feedback CheckArguments(const VerifySpec& spec, const Json& arguments) {
  for (const auto& [name, argument] : spec.arguments) {
    const bool optional = !argument.required || MayBeMissing(argument.any_of);
    if (!optional && !arguments.contains(name)) {
      return Wrong(absl::StrCat("argument '", name, "' is missing"));
    }
  }
  for (const auto& [name, value] : arguments.items()) {
    const auto argument = spec.arguments.find(name);
    if (argument == spec.arguments.end()) {
      return Wrong(
          absl::StrCat("unexpected argument '", ReplaceInvalidUtf8(name.substr(0, 80)), "'"));
    }
    const std::string why = WhyWrong(name, argument->second, value);
    if (!why.empty()) return Wrong(why);
  }
  return {.success = true, .score = 1};
}

bool RuntimeKnows(const VerifySpec& spec, const std::string& name) {
  if (spec.runtime_tools.empty()) return name == spec.tool_name;
  return std::find(spec.runtime_tools.begin(), spec.runtime_tools.end(), name) !=
         spec.runtime_tools.end();
}

}  // namespace

Feedback VerifyToolCall(const VerifySpec& spec, absl::string_view output) {
  const absl::StatusOr<Json> call = ParseJson(Unwrap(output), kOutputLimits);
  if (!call.ok()) return Wrong(absl::StrCat("not one JSON object: ", call.status().message()));
  JsonFields fields(*call, "call");
  const std::string name = fields.String("name");
  const Json& arguments = fields.Object("arguments");
  if (const absl::Status status = fields.Done(); !status.ok()) {
    return Wrong(std::string(status.message()));
  }
  if (!RuntimeKnows(spec, name)) {
    Feedback feedback = Wrong(absl::StrCat("tool runtime: unknown function '",
                                           ReplaceInvalidUtf8(name.substr(0, 80)), "'"));
    feedback.tool_error = true;
    return feedback;
  }
  if (name != spec.tool_name) {
    return Wrong(absl::StrCat("called '", name, "' instead of '", spec.tool_name, "'"));
  }
  return CheckArguments(spec, arguments);
}

}  // namespace evolora::internal
