#include <algorithm>
#include <initializer_list>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "evolora/core/status_macros.h"
#include "evolora/data/chat_format.h"
#include "jinja_scan.h"

namespace evolora {
namespace {

using Kind = JinjaToken::Kind;
using Texts = std::vector<absl::string_view>;

// What the known templates of a family may hold.
struct Grammar {
  ChatFamily family;
  Texts marks;     // each stands somewhere in the template
  Texts needs;     // names without which its rendering would differ
  Texts names;     // further names
  Texts literals;  // besides role and field names
};

const Texts& CommonNames() {
  static const Texts& names = *new Texts{"for",
                                         "in",
                                         "if",
                                         "elif",
                                         "else",
                                         "endif",
                                         "endfor",
                                         "set",
                                         "not",
                                         "and",
                                         "or",
                                         "is",
                                         "true",
                                         "false",
                                         "True",
                                         "False",
                                         "none",
                                         "None",
                                         "defined",
                                         "loop",
                                         "first",
                                         "last",
                                         "index0",
                                         "messages",
                                         "message",
                                         "role",
                                         "content",
                                         "bos_token",
                                         "eos_token",
                                         "raise_exception",
                                         "loop_messages",
                                         "system_message",
                                         "tools"};
  return names;
}

const Texts& CommonLiterals() {
  static const Texts& literals =
      *new Texts{"role", "content", "system", "user", "assistant", "tool", "tool_calls"};
  return literals;
}

const std::vector<Grammar>& Grammars() {
  static const std::vector<Grammar>& grammars = *new std::vector<Grammar>{
      {ChatFamily::kChatMl,
       {"<|im_start|>", "<|im_end|>"},
       {"add_generation_prompt"},
       {"tool_calls", "tool_call", "function", "name", "arguments", "tojson"},
       {"<|im_start|>", "<|im_end|>", "\n", "<|im_end|>\n", "<|im_start|>assistant\n",
        "<|im_start|>system\n", "<|im_start|>user", "\n<tool_response>\n", "\n</tool_response>",
        "\n<tool_call>\n{\"name\": \"", "\", \"arguments\": ", "}\n</tool_call>"}},
      {ChatFamily::kLlama3,
       {"<|start_header_id|>", "<|eot_id|>"},
       {"add_generation_prompt", "trim", "bos_token"},
       {},
       {"<|start_header_id|>", "<|end_header_id|>\n\n", "<|eot_id|>",
        "<|start_header_id|>assistant<|end_header_id|>\n\n"}},
      {ChatFamily::kZephyr,
       {"<|user|>", "<|assistant|>"},
       {"add_generation_prompt", "eos_token"},
       {},
       {"<|user|>\n", "<|system|>\n", "<|assistant|>\n", "<|assistant|>"}},
      {ChatFamily::kLlama2,
       {"[INST]", "<<SYS>>"},
       {"strip", "bos_token", "eos_token"},
       {},
       {"<<SYS>>\n", "\n<</SYS>>\n\n", "[INST] ", " [/INST]", " "}},
      {ChatFamily::kMistral,
       {"[INST]", "[/INST]"},
       {"bos_token", "eos_token"},
       {},
       {"[INST] ", " [INST] ", " [/INST]", " ", "\n\n"}},
  };
  return grammars;
}

bool Holds(const Texts& texts, absl::string_view text) {
  return std::find(texts.begin(), texts.end(), text) != texts.end();
}

bool HasName(const std::vector<JinjaToken>& tokens, absl::string_view name) {
  return std::any_of(tokens.begin(), tokens.end(), [name](const JinjaToken& token) {
    return token.kind == Kind::kName && token.text == name;
  });
}

// Whether literals or plain text hold `mark`.
bool HasMark(const std::vector<JinjaToken>& tokens, absl::string_view mark) {
  return std::any_of(tokens.begin(), tokens.end(), [mark](const JinjaToken& token) {
    return (token.kind == Kind::kString || token.kind == Kind::kData) &&
           absl::StrContains(token.text, mark);
  });
}

// Whether the tokens' texts hold this sequence.
bool HasSequence(const std::vector<JinjaToken>& tokens, std::initializer_list<const char*> texts) {
  return std::search(tokens.begin(), tokens.end(), texts.begin(), texts.end(),
                     [](const JinjaToken& token, const char* text) {
                       return token.text == text;
                     }) != tokens.end();
}

absl::Status Unknown(absl::string_view what) {
  return absl::UnimplementedError(absl::StrCat(
      "chat template: ", what,
      "; name the format with --chat-format (chatml, llama2, llama3, mistral, zephyr)"));
}

// "<|im_start|>system\n" TEXT "<|im_end|>" ["\n"]: ChatML's default system turn.
std::optional<std::string> DefaultSystem(absl::string_view literal) {
  if (!absl::ConsumePrefix(&literal, "<|im_start|>system\n")) return std::nullopt;
  absl::ConsumeSuffix(&literal, "\n");
  if (!absl::ConsumeSuffix(&literal, "<|im_end|>")) return std::nullopt;
  if (absl::StrContains(literal, "<|im_")) return std::nullopt;
  return std::string(literal);
}

absl::Status CheckLiteral(const Grammar& grammar, const std::string& literal, ChatFormat& format) {
  if (Holds(CommonLiterals(), literal) || Holds(grammar.literals, literal)) {
    return absl::OkStatus();
  }
  const std::optional<std::string> system =
      grammar.family == ChatFamily::kChatMl ? DefaultSystem(literal) : std::nullopt;
  if (!system.has_value()) return Unknown(absl::StrCat("text '", literal, "' is not understood"));
  if (format.default_system.has_value() && *format.default_system != *system) {
    return Unknown("two default system texts");
  }
  format.default_system = system;
  return absl::OkStatus();
}

absl::Status CheckTokens(const std::vector<JinjaToken>& tokens, const Grammar& grammar,
                         ChatFormat& format) {
  for (size_t i = 0; i < tokens.size(); ++i) {
    const JinjaToken& token = tokens[i];
    if (token.kind == Kind::kData && !absl::StripAsciiWhitespace(token.text).empty()) {
      return Unknown(absl::StrCat("text '", token.text, "' outside of tags"));
    }
    if (token.kind == Kind::kName && !Holds(CommonNames(), token.text) &&
        !Holds(grammar.names, token.text) && !Holds(grammar.needs, token.text)) {
      return Unknown(absl::StrCat("name '", token.text, "' is not understood"));
    }
    const bool is_complaint =
        i >= 2 && tokens[i - 1].text == "(" && tokens[i - 2].text == "raise_exception";
    if (token.kind == Kind::kString && !is_complaint) {
      RETURN_IF_ERROR(CheckLiteral(grammar, token.text, format));
    }
  }
  for (const absl::string_view name : grammar.needs) {
    if (!HasName(tokens, name)) return Unknown(absl::StrCat("'", name, "' does not occur"));
  }
  return absl::OkStatus();
}

void ReadMistralSpelling(const std::vector<JinjaToken>& tokens, ChatFormat& format) {
  format.before_user = HasSequence(tokens, {" [INST] "}) ? " " : "";
  format.before_assistant = HasSequence(tokens, {" ", "+", "message"}) ? " " : "";
  format.after_eos = HasSequence(tokens, {"eos_token", "+", " "}) ? " " : "";
  format.folds_system = HasSequence(tokens, {"system_message", "+", "\n\n", "+", "message"});
}

}  // namespace

absl::StatusOr<ChatFormat> RecogniseChatFormat(absl::string_view template_text) {
  absl::StatusOr<std::vector<JinjaToken>> scanned = ScanJinja(template_text);
  if (!scanned.ok()) return Unknown(scanned.status().message());
  const std::vector<JinjaToken> tokens = DropToolBranches(*scanned);
  for (const Grammar& grammar : Grammars()) {
    const bool is_family =
        std::all_of(grammar.marks.begin(), grammar.marks.end(),
                    [&tokens](absl::string_view mark) { return HasMark(tokens, mark); });
    if (!is_family) continue;
    ASSIGN_OR_RETURN(ChatFormat format, ParseChatFormatName(ChatFamilyName(grammar.family)));
    RETURN_IF_ERROR(CheckTokens(tokens, grammar, format));
    if (HasMark(tokens, "<tool_response>")) format.tool_turn = ToolTurn::kUserToolResponse;
    if (grammar.family == ChatFamily::kMistral) ReadMistralSpelling(tokens, format);
    return format;
  }
  return Unknown("it has the marks of no known format");
}

}  // namespace evolora
