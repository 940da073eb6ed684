#include "evolora/core/case.h"

#include <re2/re2.h>

#include <algorithm>
#include <array>
#include <iterator>
#include <optional>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "evolora/core/status_macros.h"

namespace evolora {
namespace {

constexpr std::array<const char*, 4> kSplitNames = {"stream", "query", "anchor", "test"};
constexpr std::array<const char*, 6> kVerifyTypeNames = {"exact",  "contains", "regex",
                                                         "number", "choice",   "tool_call"};
constexpr std::array<const char*, 7> kArgumentTypes = {"string", "integer", "number", "boolean",
                                                       "array",  "object",  "any"};
constexpr std::array<const char*, 4> kRoles = {"system", "user", "assistant", "tool"};
constexpr size_t kMaxIdBytes = 200;
constexpr int64_t kMaxRegexMemoryBytes = 1 << 20;

template <size_t N>
std::optional<size_t> IndexOf(const std::array<const char*, N>& names, absl::string_view name) {
  const auto it = std::find(names.begin(), names.end(), name);
  if (it == names.end()) return std::nullopt;
  return static_cast<size_t>(it - names.begin());
}

// The index of the name at `key`, or an error listing nothing but the wrong name.
template <size_t N>
size_t NameField(JsonFields& fields, absl::string_view key,
                 const std::array<const char*, N>& names) {
  const std::string name = fields.String(key);
  const std::optional<size_t> index = IndexOf(names, name);
  if (!index) fields.Fail(key, absl::StrCat("unknown name \"", name.substr(0, 80), "\""));
  return index.value_or(0);
}

bool IsIdByte(char c) {
  return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' ||
         c == '_' || c == ':' || c == '-';
}

std::string IdField(JsonFields& fields, absl::string_view key) {
  std::string id = fields.String(key);
  if (id.empty() || id.size() > kMaxIdBytes || !std::all_of(id.begin(), id.end(), IsIdByte)) {
    fields.Fail(key, absl::StrCat("must be 1 to ", kMaxIdBytes, " bytes of [A-Za-z0-9._:-]"));
  }
  return id;
}

std::vector<std::string> NonEmptyTexts(JsonFields& fields, absl::string_view key) {
  std::vector<std::string> texts = fields.StringArray(key);
  if (texts.empty()) fields.Fail(key, "needs at least one text");
  for (const std::string& text : texts) {
    if (text.empty()) fields.Fail(key, "holds an empty text");
  }
  return texts;
}

absl::StatusOr<std::vector<Message>> MessagesFromJson(const Json& array, const std::string& path) {
  std::vector<Message> messages;
  for (const Json& element : array) {
    JsonFields fields(element, absl::StrCat(path, "[", messages.size(), "]"));
    Message message;
    message.role = kRoles[NameField(fields, "role", kRoles)];
    message.content = fields.String("content");
    RETURN_IF_ERROR(fields.Done());
    messages.push_back(std::move(message));
  }
  const bool has_user = std::any_of(messages.begin(), messages.end(),
                                    [](const Message& m) { return m.role == "user"; });
  if (!has_user) return absl::InvalidArgumentError(absl::StrCat(path, ": no user turn"));
  return messages;
}

absl::StatusOr<ArgumentSpec> ArgumentFromJson(const Json& json, const std::string& path) {
  JsonFields fields(json, path);
  ArgumentSpec argument;
  argument.type = kArgumentTypes[NameField(fields, "type", kArgumentTypes)];
  const Json& any_of = fields.Array("any_of");
  argument.any_of.assign(any_of.begin(), any_of.end());
  if (any_of.empty()) fields.Fail("any_of", "needs at least one value");
  argument.required = fields.OptionalBool("required").value_or(true);
  RETURN_IF_ERROR(fields.Done());
  return argument;
}

absl::Status ReadToolCall(JsonFields& fields, const std::string& path, VerifySpec& verify) {
  verify.tool_name = fields.String("name");
  if (verify.tool_name.empty()) fields.Fail("name", "empty");
  for (const auto& [name, value] : fields.Object("arguments").items()) {
    ASSIGN_OR_RETURN(verify.arguments[name],
                     ArgumentFromJson(value, absl::StrCat(path, ".arguments.", name)));
  }
  if (fields.Has("runtime_tools")) verify.runtime_tools = NonEmptyTexts(fields, "runtime_tools");
  return absl::OkStatus();
}

void ReadRegex(JsonFields& fields, VerifySpec& verify) {
  verify.pattern = fields.String("pattern");
  RE2::Options options(RE2::Quiet);
  options.set_max_mem(kMaxRegexMemoryBytes);
  const RE2 regex(verify.pattern, options);
  if (verify.pattern.empty()) fields.Fail("pattern", "empty");
  if (!regex.ok()) fields.Fail("pattern", regex.error());
}

void ReadChoice(JsonFields& fields, VerifySpec& verify) {
  verify.any_of = NonEmptyTexts(fields, "any_of");
  verify.choices = NonEmptyTexts(fields, "choices");
  const std::set<std::string> labels(verify.choices.begin(), verify.choices.end());
  if (labels.size() != verify.choices.size()) fields.Fail("choices", "a label stands twice");
  for (const std::string& label : verify.any_of) {
    if (labels.count(label) == 0) fields.Fail("any_of", absl::StrCat(label, " is no choice"));
  }
}

absl::StatusOr<VerifySpec> VerifyFromJson(const Json& json, const std::string& path) {
  JsonFields fields(json, path);
  VerifySpec verify;
  verify.type = static_cast<VerifyType>(NameField(fields, "type", kVerifyTypeNames));
  RETURN_IF_ERROR(fields.status());
  switch (verify.type) {
    case VerifyType::kExact:
    case VerifyType::kContains:
      verify.any_of = NonEmptyTexts(fields, "any_of");
      break;
    case VerifyType::kRegex:
      ReadRegex(fields, verify);
      break;
    case VerifyType::kNumber:
      verify.number = fields.Number("value");
      verify.tolerance = fields.OptionalNumber("tolerance").value_or(0);
      if (verify.tolerance < 0) fields.Fail("tolerance", "negative");
      break;
    case VerifyType::kChoice:
      ReadChoice(fields, verify);
      break;
    case VerifyType::kToolCall:
      RETURN_IF_ERROR(ReadToolCall(fields, path, verify));
      break;
  }
  RETURN_IF_ERROR(fields.Done());
  return verify;
}

Json ToolCallToJson(const VerifySpec& verify) {
  Json arguments = Json::object();
  for (const auto& [name, argument] : verify.arguments) {
    arguments[name] = {{"type", argument.type},
                       {"any_of", Json(argument.any_of)},
                       {"required", argument.required}};
  }
  Json json = {{"name", verify.tool_name}, {"arguments", std::move(arguments)}};
  if (!verify.runtime_tools.empty()) json["runtime_tools"] = verify.runtime_tools;
  return json;
}

Json VerifyToJson(const VerifySpec& verify) {
  Json json = Json::object();
  switch (verify.type) {
    case VerifyType::kExact:
    case VerifyType::kContains:
      json["any_of"] = verify.any_of;
      break;
    case VerifyType::kRegex:
      json["pattern"] = verify.pattern;
      break;
    case VerifyType::kNumber:
      json["value"] = verify.number;
      json["tolerance"] = verify.tolerance;
      break;
    case VerifyType::kChoice:
      json["any_of"] = verify.any_of;
      json["choices"] = verify.choices;
      break;
    case VerifyType::kToolCall:
      json = ToolCallToJson(verify);
      break;
  }
  json["type"] = VerifyTypeName(verify.type);
  return json;
}

Json FeedbackToJson(const CaseFeedback& feedback) {
  Json json = {{"answer", feedback.answer}};
  if (!feedback.rule.empty()) json["rule"] = feedback.rule;
  if (!feedback.hint.empty()) json["hint"] = feedback.hint;
  return json;
}

absl::StatusOr<CaseFeedback> FeedbackFromJson(const Json& json, const std::string& path) {
  JsonFields fields(json, path);
  CaseFeedback feedback;
  feedback.answer = fields.String("answer");
  feedback.rule = fields.OptionalString("rule").value_or("");
  feedback.hint = fields.OptionalString("hint").value_or("");
  RETURN_IF_ERROR(fields.Done());
  return feedback;
}

std::string FaultField(JsonFields& fields) {
  std::string fault = fields.OptionalString("fault").value_or("");
  if (fault != "" && fault != "tool" && fault != "verifier") {
    fields.Fail("fault", "must be tool or verifier");
  }
  return fault;
}

}  // namespace

const char* SplitName(Split split) { return kSplitNames[static_cast<size_t>(split)]; }
const char* VerifyTypeName(VerifyType type) { return kVerifyTypeNames[static_cast<size_t>(type)]; }

Json CaseToJson(const Case& c) {
  Json messages = Json::array();
  for (const Message& message : c.messages) {
    messages.push_back({{"role", message.role}, {"content", message.content}});
  }
  Json json = {{"id", c.id},
               {"cluster", c.cluster},
               {"split", SplitName(c.split)},
               {"messages", std::move(messages)},
               {"verify", VerifyToJson(c.verify)},
               {"feedback", FeedbackToJson(c.feedback)}};
  if (c.is_volatile) json["volatile"] = true;
  if (c.is_private) json["private"] = true;
  if (!c.fault.empty()) json["fault"] = c.fault;
  return json;
}

absl::StatusOr<Case> CaseFromJson(const Json& json) {
  Case c;
  JsonFields fields(json, "case");
  c.id = IdField(fields, "id");
  c.cluster = IdField(fields, "cluster");
  RETURN_IF_ERROR(fields.status());
  const std::string path = absl::StrCat("case ", c.id);
  c.split = static_cast<Split>(NameField(fields, "split", kSplitNames));
  const Json& messages = fields.Array("messages");
  const Json& verify = fields.Object("verify");
  c.is_volatile = fields.OptionalBool("volatile").value_or(false);
  c.is_private = fields.OptionalBool("private").value_or(false);
  c.fault = FaultField(fields);
  const bool has_feedback = fields.Has("feedback") || c.split == Split::kStream;
  const Json* feedback = has_feedback ? &fields.Object("feedback") : nullptr;
  if (absl::Status status = fields.Done(); !status.ok()) return Annotate(status, path);
  ASSIGN_OR_RETURN(c.messages, MessagesFromJson(messages, path + ".messages"));
  ASSIGN_OR_RETURN(c.verify, VerifyFromJson(verify, path + ".verify"));
  if (feedback != nullptr) {
    ASSIGN_OR_RETURN(c.feedback, FeedbackFromJson(*feedback, path + ".feedback"));
  }
  return c;
}

std::string LastUserText(const Case& c) {
  const auto it = std::find_if(c.messages.rbegin(), c.messages.rend(),
                               [](const Message& m) { return m.role == "user"; });
  return it == c.messages.rend() ? "" : it->content;
}

}  // namespace evolora
