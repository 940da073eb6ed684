#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "evolora/core/status_macros.h"
#include "evolora/data/chat_format.h"

namespace evolora {
namespace {

struct FamilyName {
  ChatFamily family;
  const char* name;
};
constexpr FamilyName kFamilies[] = {{ChatFamily::kChatMl, "chatml"},
                                    {ChatFamily::kLlama2, "llama2"},
                                    {ChatFamily::kLlama3, "llama3"},
                                    {ChatFamily::kMistral, "mistral"},
                                    {ChatFamily::kZephyr, "zephyr"}};

ChatFormat PlainFormat(ChatFamily family) {
  ChatFormat format{.family = family};
  switch (family) {
    case ChatFamily::kChatMl:
      break;
    case ChatFamily::kLlama3:
      format.bos_text = "<|begin_of_text|>";
      break;
    case ChatFamily::kMistral:
      format.before_user = " ";
      format.before_assistant = " ";
      format.folds_system = true;
      [[fallthrough]];
    case ChatFamily::kLlama2:
    case ChatFamily::kZephyr:
      format.bos_text = "<s>";
      format.eos_text = "</s>";
      break;
  }
  return format;
}

std::string EndOfTurnText(const ChatFormat& format) {
  if (format.family == ChatFamily::kChatMl) return "<|im_end|>";
  return format.family == ChatFamily::kLlama3 ? "<|eot_id|>" : format.eos_text;
}

// The marks that are no text: a base trained on the format has a token for each.
std::vector<std::string> RequiredMarks(const ChatFormat& format) {
  switch (format.family) {
    case ChatFamily::kChatMl:
      return {"<|im_start|>", "<|im_end|>"};
    case ChatFamily::kLlama3:
      return {format.bos_text, "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"};
    case ChatFamily::kLlama2:
    case ChatFamily::kMistral:
      return {format.bos_text, format.eos_text};
    case ChatFamily::kZephyr:
      return {format.eos_text};
  }
  return {};
}

absl::StatusOr<TokenId> RequiredId(const Tokenizer& tokenizer, const ChatFormat& format,
                                   const std::string& mark) {
  const TokenId id = tokenizer.SpecialId(mark);
  if (id >= 0) return id;
  return absl::FailedPreconditionError(absl::StrCat("the tokenizer has no special token '", mark,
                                                    "', which the chat format ",
                                                    ChatFamilyName(format.family), " needs"));
}

absl::StatusOr<EncodedRuns> EncodeSegments(const Tokenizer& tokenizer, const ChatFormat& format,
                                           const std::vector<ChatSegment>& segments) {
  for (const std::string& mark : RequiredMarks(format)) {
    RETURN_IF_ERROR(RequiredId(tokenizer, format, mark).status());
  }
  std::vector<TextRun> runs;
  for (const ChatSegment& segment : segments) runs.push_back({segment.text, segment.special});
  return tokenizer.EncodeRuns(runs);
}

}  // namespace

const char* ChatFamilyName(ChatFamily family) {
  for (const FamilyName& entry : kFamilies) {
    if (entry.family == family) return entry.name;
  }
  return "unknown";
}

absl::StatusOr<ChatFormat> ParseChatFormatName(absl::string_view name) {
  std::string known;
  for (const FamilyName& entry : kFamilies) {
    if (name == entry.name) return PlainFormat(entry.family);
    absl::StrAppend(&known, known.empty() ? "" : ", ", entry.name);
  }
  return absl::InvalidArgumentError(absl::StrCat("chat format '", name, "'; known are ", known));
}

absl::StatusOr<std::vector<TokenId>> EncodeChat(const Tokenizer& tokenizer,
                                                const ChatFormat& format,
                                                absl::Span<const Message> messages,
                                                bool add_generation_prompt) {
  ASSIGN_OR_RETURN(const std::vector<ChatSegment> segments,
                   RenderChat(format, messages, add_generation_prompt));
  ASSIGN_OR_RETURN(EncodedRuns encoded, EncodeSegments(tokenizer, format, segments));
  return std::move(encoded.ids);
}

absl::StatusOr<TrainingChat> EncodeChatForTraining(const Tokenizer& tokenizer,
                                                   const ChatFormat& format,
                                                   absl::Span<const Message> messages) {
  ASSIGN_OR_RETURN(const std::vector<ChatSegment> segments,
                   RenderChat(format, messages, /*add_generation_prompt=*/false));
  ASSIGN_OR_RETURN(EncodedRuns encoded, EncodeSegments(tokenizer, format, segments));
  TrainingChat chat{.ids = std::move(encoded.ids)};
  chat.is_label.reserve(chat.ids.size());
  for (const int32_t run : encoded.run_of_id) {
    chat.is_label.push_back(segments[static_cast<size_t>(run)].is_assistant_output ? 1 : 0);
  }
  return chat;
}

absl::StatusOr<TokenId> EndOfTurnId(const Tokenizer& tokenizer, const ChatFormat& format) {
  return RequiredId(tokenizer, format, EndOfTurnText(format));
}

}  // namespace evolora
