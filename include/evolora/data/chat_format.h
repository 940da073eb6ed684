#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "evolora/core/message.h"
#include "evolora/core/tokenizer.h"

namespace evolora {

enum class ChatFamily { kChatMl, kLlama2, kLlama3, kMistral, kZephyr };

// How ChatML writes a turn of role "tool".
enum class ToolTurn {
  kOwnRole,          // <|im_start|>tool
  kUserToolResponse  // Qwen2.5: neighbouring tool turns share one user turn, each in
                     // <tool_response>
};

// The wording of one chat template. Made by RecogniseChatFormat or ParseChatFormatName.
struct ChatFormat {
  ChatFamily family = ChatFamily::kChatMl;
  // ChatML: the system turn put in front of a chat that starts with another role; none = no turn.
  std::optional<std::string> default_system;
  ToolTurn tool_turn = ToolTurn::kOwnRole;
  std::string bos_text;  // what the template's bos_token stands for
  std::string eos_text;  // ... and eos_token
  // Mistral's spellings of its template over time: blanks around the turns, and whether a system
  // turn goes into the first user turn (else it is refused).
  std::string before_user;       // in front of [INST], "" or " "
  std::string before_assistant;  // in front of an assistant's content, "" or " "
  std::string after_eos;         // behind an assistant's eos, "" or " "
  bool folds_system = false;
  friend bool operator==(const ChatFormat&, const ChatFormat&) = default;
};

// One piece of a rendered chat. kAsTokens: exactly one mark of the format, e.g. "<|im_end|>" or
// "[INST]", the only text that may become a special token (where the tokenizer has one for it).
// kAsText: all other text, content above all.
struct ChatSegment {
  std::string text;
  SpecialText special = SpecialText::kAsText;
  // Part of what the assistant has to produce: its content and all up to its end-of-turn mark.
  bool is_assistant_output = false;
};

// The format whose rendering equals the Jinja template `template_text`, found by its marks,
// literals and names; default system texts are taken out of the template's literals. Errors:
// Unimplemented   the template is of no known family, or uses a name (variable, filter,
//                         function) that the family's known templates do not; says so, names it,
//                         and names the option --chat-format.
absl::StatusOr<ChatFormat> RecogniseChatFormat(absl::string_view template_text);

// "chatml", "llama2", "llama3", "mistral" or "zephyr", in its plain form.
// Errors: InvalidArgument lists the names.
absl::StatusOr<ChatFormat> ParseChatFormatName(absl::string_view name);
const char* ChatFamilyName(ChatFamily family);

// Renders `messages`; the joined text equals the reference template's output byte for byte.
// `add_generation_prompt`: end with the head of an assistant turn (nothing in Llama 2 and Mistral,
// where the user's turn ends with it).
// Errors: InvalidArgument names the message: no messages, an unknown role, a role the template
//         refuses or would silently drop, or (Llama 2, Mistral) turns that do not alternate.
absl::StatusOr<std::vector<ChatSegment>> RenderChat(const ChatFormat& format,
                                                    absl::Span<const Message> messages,
                                                    bool add_generation_prompt);
std::string JoinSegments(absl::Span<const ChatSegment> segments);

// Ids of the rendered chat; a template's BOS is part of it, no other BOS is added.
// Equal to Hugging Face's encoding of the rendered text, except where content itself holds the text
// of a special token: there it stays plain text here.
// Errors: as RenderChat; FailedPrecondition names a special token of the format (<|im_end|>, BOS,
// EOS
//         ..) that the tokenizer lacks.
absl::StatusOr<std::vector<TokenId>> EncodeChat(const Tokenizer& tokenizer,
                                                const ChatFormat& format,
                                                absl::Span<const Message> messages,
                                                bool add_generation_prompt);

struct TrainingChat {
  std::vector<TokenId> ids;  // as EncodeChat without a generation prompt
  std::vector<uint8_t>
      is_label;  // [ids] 1: an id the assistant has to produce, its end of turn too
};

// The chat as a training row. An id that joins the end of the turn's head with the start of the
// content is labelled. Errors: as EncodeChat.
absl::StatusOr<TrainingChat> EncodeChatForTraining(const Tokenizer& tokenizer,
                                                   const ChatFormat& format,
                                                   absl::Span<const Message> messages);

// The id that ends an assistant's turn. FailedPrecondition: the tokenizer has no such token.
absl::StatusOr<TokenId> EndOfTurnId(const Tokenizer& tokenizer, const ChatFormat& format);

}  // namespace evolora
