#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "evolora/core/status_macros.h"
#include "evolora/data/chat_format.h"
#include "utf8.h"

namespace evolora {
namespace {

using Messages = absl::Span<const Message>;

class ChatWriter {
 public:
  enum class By { kPrompt, kAssistant };

  void Mark(absl::string_view text, By by = By::kPrompt) { Add(text, SpecialText::kAsTokens, by); }
  void Text(absl::string_view text, By by = By::kPrompt) { Add(text, SpecialText::kAsText, by); }
  std::vector<ChatSegment> Take() { return std::move(segments_); }

 private:
  void Add(absl::string_view text, SpecialText special, By by) {
    if (text.empty()) return;
    segments_.push_back({std::string(text), special, by == By::kAssistant});
  }
  std::vector<ChatSegment> segments_;
};

using By = ChatWriter::By;

absl::Status BadMessage(const ChatFormat& format, size_t i, absl::string_view why) {
  return absl::InvalidArgumentError(
      absl::StrCat("chat format ", ChatFamilyName(format.family), ", message ", i, ": ", why));
}

By WriterOf(const Message& message) {
  return message.role == "assistant" ? By::kAssistant : By::kPrompt;
}

absl::Status CheckRoles(const ChatFormat& format, Messages messages) {
  if (messages.empty()) return absl::InvalidArgumentError("a chat without messages");
  for (size_t i = 0; i < messages.size(); ++i) {
    const std::string& role = messages[i].role;
    if (role != "system" && role != "user" && role != "assistant" && role != "tool") {
      return BadMessage(format, i, absl::StrCat("unknown role '", role, "'"));
    }
    if (ValidUtf8Prefix(messages[i].content) != messages[i].content.size()) {
      return BadMessage(format, i, "content is not UTF-8");
    }
  }
  return absl::OkStatus();
}

// user, assistant, user ..: what Llama 2's and Mistral's templates insist on.
absl::Status CheckAlternation(const ChatFormat& format, Messages messages, size_t first) {
  if (first == messages.size()) {
    return BadMessage(format, first - 1, "a system turn without a user turn after it");
  }
  for (size_t i = first; i < messages.size(); ++i) {
    const char* expected = (i - first) % 2 == 0 ? "user" : "assistant";
    if (messages[i].role == expected) continue;
    return BadMessage(
        format, i,
        absl::StrCat("role '", messages[i].role, "' where the template ", "takes ", expected));
  }
  return absl::OkStatus();
}

void WriteChatMlTurn(absl::string_view role, absl::string_view content, By by, ChatWriter& out) {
  out.Mark("<|im_start|>");
  out.Text(absl::StrCat(role, "\n"));
  out.Text(content, by);
  out.Mark("<|im_end|>", by);
  out.Text("\n");
}

// Neighbouring tool turns share one user turn.
void WriteToolResponse(Messages messages, size_t i, ChatWriter& out) {
  if (i == 0 || messages[i - 1].role != "tool") {
    out.Mark("<|im_start|>");
    out.Text("user");
  }
  out.Text("\n<tool_response>\n");
  out.Text(messages[i].content);
  out.Text("\n</tool_response>");
  if (i + 1 == messages.size() || messages[i + 1].role != "tool") {
    out.Mark("<|im_end|>");
    out.Text("\n");
  }
}

absl::Status RenderChatMl(const ChatFormat& format, Messages messages, bool prompt,
                          ChatWriter& out) {
  if (format.default_system.has_value() && messages[0].role != "system") {
    WriteChatMlTurn("system", *format.default_system, By::kPrompt, out);
  }
  for (size_t i = 0; i < messages.size(); ++i) {
    if (messages[i].role == "tool" && format.tool_turn == ToolTurn::kUserToolResponse) {
      WriteToolResponse(messages, i, out);
    } else {
      WriteChatMlTurn(messages[i].role, messages[i].content, WriterOf(messages[i]), out);
    }
  }
  if (prompt) {
    out.Mark("<|im_start|>");
    out.Text("assistant\n");
  }
  return absl::OkStatus();
}

void WriteLlama3Head(absl::string_view role, ChatWriter& out) {
  out.Mark("<|start_header_id|>");
  out.Text(role);
  out.Mark("<|end_header_id|>");
  out.Text("\n\n");
}

absl::Status RenderLlama3(const ChatFormat& format, Messages messages, bool prompt,
                          ChatWriter& out) {
  out.Mark(format.bos_text);
  for (const Message& message : messages) {
    WriteLlama3Head(message.role, out);
    out.Text(PythonStrip(message.content), WriterOf(message));
    out.Mark("<|eot_id|>", WriterOf(message));
  }
  if (prompt) WriteLlama3Head("assistant", out);
  return absl::OkStatus();
}

absl::Status RenderZephyr(const ChatFormat& format, Messages messages, bool prompt,
                          ChatWriter& out) {
  for (size_t i = 0; i < messages.size(); ++i) {
    const Message& message = messages[i];
    if (message.role == "tool") return BadMessage(format, i, "the template has no tool turn");
    out.Mark(absl::StrCat("<|", message.role, "|>"));
    out.Text("\n");
    out.Text(message.content, WriterOf(message));
    out.Mark(format.eos_text, WriterOf(message));
    out.Text("\n");
  }
  if (prompt) {
    out.Mark("<|assistant|>");
    out.Text("\n");
  }
  return absl::OkStatus();
}

absl::Status RenderLlama2(const ChatFormat& format, Messages messages, ChatWriter& out) {
  const size_t first = messages[0].role == "system" ? 1 : 0;
  RETURN_IF_ERROR(CheckAlternation(format, messages, first));
  for (size_t i = first; i < messages.size(); ++i) {
    const std::string& content = messages[i].content;
    if (messages[i].role == "assistant") {
      out.Text(" ");
      out.Text(PythonStrip(content), By::kAssistant);
      out.Text(" ", By::kAssistant);
      out.Mark(format.eos_text, By::kAssistant);
      continue;
    }
    const bool has_system = i == first && first == 1;
    const std::string text =
        has_system ? absl::StrCat("<<SYS>>\n", messages[0].content, "\n<</SYS>>\n\n", content)
                   : content;
    out.Mark(format.bos_text);
    out.Mark("[INST]");
    out.Text(" ");
    out.Text(PythonStrip(text));
    out.Text(" ");
    out.Mark("[/INST]");
  }
  return absl::OkStatus();
}

absl::Status RenderMistral(const ChatFormat& format, Messages messages, ChatWriter& out) {
  const size_t first = messages[0].role == "system" ? 1 : 0;
  if (first == 1 && !format.folds_system) {
    return BadMessage(format, 0, "the template has no system turn");
  }
  RETURN_IF_ERROR(CheckAlternation(format, messages, first));
  out.Mark(format.bos_text);
  for (size_t i = first; i < messages.size(); ++i) {
    if (messages[i].role == "assistant") {
      out.Text(format.before_assistant);
      out.Text(messages[i].content, By::kAssistant);
      out.Mark(format.eos_text, By::kAssistant);
      out.Text(format.after_eos);
      continue;
    }
    out.Text(format.before_user);
    out.Mark("[INST]");
    out.Text(" ");
    if (i == first && first == 1) out.Text(absl::StrCat(messages[0].content, "\n\n"));
    out.Text(messages[i].content);
    out.Text(" ");
    out.Mark("[/INST]");
  }
  return absl::OkStatus();
}

absl::Status Render(const ChatFormat& format, Messages messages, bool prompt, ChatWriter& out) {
  switch (format.family) {
    case ChatFamily::kChatMl:
      return RenderChatMl(format, messages, prompt, out);
    case ChatFamily::kLlama2:
      return RenderLlama2(format, messages, out);
    case ChatFamily::kLlama3:
      return RenderLlama3(format, messages, prompt, out);
    case ChatFamily::kMistral:
      return RenderMistral(format, messages, out);
    case ChatFamily::kZephyr:
      return RenderZephyr(format, messages, prompt, out);
  }
  return absl::InternalError("unknown chat family");
}

}  // namespace

absl::StatusOr<std::vector<ChatSegment>> RenderChat(const ChatFormat& format,
                                                    absl::Span<const Message> messages,
                                                    bool add_generation_prompt) {
  RETURN_IF_ERROR(CheckRoles(format, messages));
  ChatWriter out;
  RETURN_IF_ERROR(Render(format, messages, add_generation_prompt, out));
  return out.Take();
}

std::string JoinSegments(absl::Span<const ChatSegment> segments) {
  std::string text;
  for (const ChatSegment& segment : segments) text += segment.text;
  return text;
}

}  // namespace evolora
