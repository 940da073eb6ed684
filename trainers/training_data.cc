#include "evolora/trainers/training_data.h"

#include <algorithm>
#include <cstdint>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "evolora/core/json.h"
#include "evolora/core/sha256.h"
#include "evolora/core/status_macros.h"
#include "evolora/data/chat_format.h"

namespace evolora {
namespace {

absl::Status NeedsTokenizer(const BaseModel& base) {
  if (base.tokenizer != nullptr) return absl::OkStatus();
  return absl::FailedPreconditionError(
      "the base has no tokenizer: only rows of {\"ids\", \"labels\"} can be trained on");
}

absl::StatusOr<std::vector<Message>> ParseMessages(const Json& array) {
  std::vector<Message> messages;
  for (size_t i = 0; i < array.size(); ++i) {
    JsonFields f(array[i], absl::StrCat("messages[", i, "]"));
    messages.push_back({f.String("role"), f.String("content")});
    RETURN_IF_ERROR(f.Done());
  }
  return messages;
}

absl::StatusOr<TrainingRow> RowFromMessages(const Json& array, const BaseModel& base) {
  RETURN_IF_ERROR(NeedsTokenizer(base));
  if (!base.chat_format.ok()) {
    return absl::FailedPreconditionError(
        "the base has no chat format: name one with --chat-format");
  }
  ASSIGN_OR_RETURN(const std::vector<Message> messages, ParseMessages(array));
  ASSIGN_OR_RETURN(TrainingChat chat,
                   EncodeChatForTraining(*base.tokenizer, *base.chat_format, messages));
  TrainingRow row;
  for (const Message& message : messages) {
    if (message.role == "user") row.text = message.content;
  }
  row.labels.assign(chat.ids.size(), kIgnoreLabel);
  for (size_t t = 0; t < chat.ids.size(); ++t) {
    if (chat.is_label[t] != 0) row.labels[t] = chat.ids[t];
  }
  row.ids = std::move(chat.ids);
  return row;
}

absl::StatusOr<TrainingRow> RowFromCompletion(const std::string& prompt,
                                              const std::string& completion,
                                              const BaseModel& base) {
  RETURN_IF_ERROR(NeedsTokenizer(base));
  TrainingRow row;
  row.text = prompt;
  ASSIGN_OR_RETURN(row.ids, base.tokenizer->Encode(prompt, SpecialText::kAsText));
  if (base.tokenizer->adds_bos()) row.ids.insert(row.ids.begin(), base.tokenizer->bos_id());
  row.labels.assign(row.ids.size(), kIgnoreLabel);
  ASSIGN_OR_RETURN(std::vector<TokenId> answer,
                   base.tokenizer->Encode(completion, SpecialText::kAsText));
  if (base.tokenizer->eos_id() >= 0) answer.push_back(base.tokenizer->eos_id());
  row.ids.insert(row.ids.end(), answer.begin(), answer.end());
  row.labels.insert(row.labels.end(), answer.begin(), answer.end());
  return row;
}

absl::StatusOr<std::vector<TokenId>> ParseIds(const Json& array, absl::string_view name,
                                              int64_t vocab_size, bool allow_ignore) {
  std::vector<TokenId> ids;
  ids.reserve(array.size());
  for (size_t t = 0; t < array.size(); ++t) {
    const Json& value = array[t];
    const int64_t id = value.is_number_integer() ? value.get<int64_t>() : int64_t{-1};
    const bool ignored = allow_ignore && id == kIgnoreLabel;
    if (!ignored && (id < 0 || id >= vocab_size)) {
      return absl::InvalidArgumentError(absl::StrCat(name, "[", t, "]: ", DisplayJson(value),
                                                     " is no id of a vocabulary of ", vocab_size));
    }
    ids.push_back(static_cast<TokenId>(id));
  }
  return ids;
}

absl::StatusOr<TrainingRow> RowFromIds(const Json& ids, const Json& labels, const BaseModel& base) {
  TrainingRow row;
  const int64_t vocab_size = base.config().vocab_size;
  ASSIGN_OR_RETURN(row.ids, ParseIds(ids, "ids", vocab_size, /*allow_ignore=*/false));
  ASSIGN_OR_RETURN(row.labels, ParseIds(labels, "labels", vocab_size, /*allow_ignore=*/true));
  if (row.ids.size() != row.labels.size()) {
    return absl::InvalidArgumentError(
        absl::StrCat("ids has ", row.ids.size(), " entries, labels ", row.labels.size()));
  }
  return row;
}

absl::StatusOr<TrainingRow> ParseRow(absl::string_view line, const BaseModel& base) {
  ASSIGN_OR_RETURN(const Json json, ParseJson(line));
  JsonFields f(json, "row");
  const bool replay = f.OptionalBool("replay").value_or(false);
  absl::StatusOr<TrainingRow> row = absl::InvalidArgumentError(
      "a row holds messages, or prompt and completion, or ids and labels");
  if (f.Has("messages")) {
    const Json& messages = f.Array("messages");
    RETURN_IF_ERROR(f.Done());
    row = RowFromMessages(messages, base);
  } else if (f.Has("prompt")) {
    const std::string prompt = f.String("prompt");
    const std::string completion = f.String("completion");
    RETURN_IF_ERROR(f.Done());
    row = RowFromCompletion(prompt, completion, base);
  } else if (f.Has("ids")) {
    const Json& ids = f.Array("ids");
    const Json& labels = f.Array("labels");
    RETURN_IF_ERROR(f.Done());
    row = RowFromIds(ids, labels, base);
  }
  if (row.ok()) row->replay = replay;
  return row;
}

}  // namespace

int64_t NumTargets(const TrainingRow& row) {
  if (row.labels.empty()) return 0;
  return std::count_if(row.labels.begin() + 1, row.labels.end(),
                       [](TokenId label) { return label != kIgnoreLabel; });
}

absl::StatusOr<std::vector<TrainingRow>> ParseTrainingRows(absl::string_view jsonl,
                                                           const BaseModel& base) {
  std::vector<TrainingRow> rows;
  int64_t line_number = 0;
  for (absl::string_view line : absl::StrSplit(jsonl, '\n')) {
    ++line_number;
    line = absl::StripAsciiWhitespace(line);
    if (line.empty()) continue;
    absl::StatusOr<TrainingRow> row = ParseRow(line, base);
    if (!row.ok()) return Annotate(row.status(), absl::StrCat("line ", line_number));
    row->line = line_number;
    rows.push_back(*std::move(row));
  }
  return rows;
}

std::vector<TokenId> EndOfTurnIds(const BaseModel& base) {
  std::vector<TokenId> ids;
  if (base.tokenizer == nullptr) return ids;
  if (base.chat_format.ok()) {
    const absl::StatusOr<TokenId> turn = EndOfTurnId(*base.tokenizer, *base.chat_format);
    if (turn.ok()) ids.push_back(*turn);
  }
  const TokenId text = base.tokenizer->eos_id();
  if (text >= 0 && std::find(ids.begin(), ids.end(), text) == ids.end()) ids.push_back(text);
  return ids;
}

std::string TrainingRowsDigest(absl::Span<const TrainingRow> rows) {
  Sha256 hash;
  for (const TrainingRow& row : rows) {
    const int64_t header[2] = {static_cast<int64_t>(row.ids.size()), row.replay ? 1 : 0};
    hash.Update(header, sizeof(header));
    hash.Update(row.ids.data(), row.ids.size() * sizeof(TokenId));
    hash.Update(row.labels.data(), row.labels.size() * sizeof(TokenId));
  }
  return hash.FinishHex();
}

}  // namespace evolora
