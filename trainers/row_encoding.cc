#include "row_encoding.h"

#include <algorithm>
#include <cstdint>
#include <utility>

#include "absl/strings/str_cat.h"
#include "evolora/core/status_macros.h"
#include "evolora/data/chat_format.h"

namespace evolora {
namespace {

absl::Status NeedsTokenizer(const BaseModel& base) {
  if (base.tokenizer != nullptr) return absl::OkStatus();
  return absl::FailedPreconditionError(
      "the base has no tokenizer: only rows of {\"ids\", \"labels\"} can be trained on");
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

// Unlabels all but the last run of labels.
void KeepLastRun(std::vector<TokenId>& labels) {
  const auto labelled = [](TokenId label) { return label != kIgnoreLabel; };
  const auto end = std::find_if(labels.rbegin(), labels.rend(), labelled);
  const auto begin = std::find_if_not(end, labels.rend(), labelled);
  std::fill(begin, labels.rend(), kIgnoreLabel);
}

// The hint as the last paragraph of the system turn, as the composer places forced hints.
std::vector<Message> WithHint(std::vector<Message> messages, const std::string& hint) {
  if (messages.empty() || messages.front().role != "system") {
    messages.insert(messages.begin(), {"system", hint});
  } else if (messages.front().content.empty()) {
    messages.front().content = hint;
  } else {
    absl::StrAppend(&messages.front().content, "\n\n", hint);
  }
  return messages;
}

// Row of `chosen`, with `rejected` as its counterpart.
absl::StatusOr<TrainingRow> Pair(TrainingRow chosen, TrainingRow rejected) {
  if (chosen.ids == rejected.ids && chosen.labels == rejected.labels) {
    return absl::InvalidArgumentError("chosen and rejected are the same: nothing to prefer");
  }
  chosen.counterpart = {std::move(rejected.ids), std::move(rejected.labels)};
  return chosen;
}

}  // namespace

absl::StatusOr<std::vector<Message>> ParseMessages(const Json& array) {
  std::vector<Message> messages;
  for (size_t i = 0; i < array.size(); ++i) {
    JsonFields f(array[i], absl::StrCat("messages[", i, "]"));
    messages.push_back({f.String("role"), f.String("content")});
    RETURN_IF_ERROR(f.Done());
  }
  return messages;
}

absl::StatusOr<TrainingRow> RowFromMessages(absl::Span<const Message> messages,
                                            const BaseModel& base) {
  RETURN_IF_ERROR(NeedsTokenizer(base));
  if (!base.chat_format.ok()) {
    return absl::FailedPreconditionError(
        "the base has no chat format: name one with --chat-format");
  }
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

absl::StatusOr<TrainingRow> RowFromLastTurn(absl::Span<const Message> messages,
                                            const BaseModel& base) {
  ASSIGN_OR_RETURN(TrainingRow row, RowFromMessages(messages, base));
  KeepLastRun(row.labels);
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

absl::StatusOr<TrainingRow> RowFromIds(JsonFields& fields, const std::string& prefix,
                                       const BaseModel& base) {
  const std::string ids_key = prefix + "ids", labels_key = prefix + "labels";
  const Json& ids = fields.Array(ids_key);
  const Json& labels = fields.Array(labels_key);
  RETURN_IF_ERROR(fields.status());
  TrainingRow row;
  const int64_t vocab_size = base.config().vocab_size;
  ASSIGN_OR_RETURN(row.ids, ParseIds(ids, ids_key, vocab_size, /*allow_ignore=*/false));
  ASSIGN_OR_RETURN(row.labels, ParseIds(labels, labels_key, vocab_size, /*allow_ignore=*/true));
  if (row.ids.size() != row.labels.size()) {
    return absl::InvalidArgumentError(absl::StrCat(ids_key, " has ", row.ids.size(), " entries, ",
                                                   labels_key, " ", row.labels.size()));
  }
  return row;
}

absl::StatusOr<TrainingRow> ParsePreferenceRow(JsonFields& f, const BaseModel& base) {
  if (f.Has("chosen_ids")) {
    ASSIGN_OR_RETURN(TrainingRow chosen, RowFromIds(f, "chosen_", base));
    ASSIGN_OR_RETURN(TrainingRow rejected, RowFromIds(f, "rejected_", base));
    RETURN_IF_ERROR(f.Done());
    return Pair(std::move(chosen), std::move(rejected));
  }
  const std::string answers[2] = {f.String("chosen"), f.String("rejected")};
  TrainingRow rows[2];
  if (f.Has("messages")) {
    const Json& array = f.Array("messages");
    RETURN_IF_ERROR(f.Done());
    ASSIGN_OR_RETURN(std::vector<Message> messages, ParseMessages(array));
    messages.push_back({"assistant", ""});
    for (int i = 0; i < 2; ++i) {
      messages.back().content = answers[i];
      ASSIGN_OR_RETURN(rows[i], RowFromLastTurn(messages, base));
    }
  } else {
    const std::string prompt = f.String("prompt");
    RETURN_IF_ERROR(f.Done());
    for (int i = 0; i < 2; ++i) {
      ASSIGN_OR_RETURN(rows[i], RowFromCompletion(prompt, answers[i], base));
    }
  }
  return Pair(std::move(rows[0]), std::move(rows[1]));
}

absl::StatusOr<TrainingRow> ParseDistillRow(JsonFields& f, const BaseModel& base) {
  TrainingRow row, teacher;
  if (f.Has("ids")) {
    ASSIGN_OR_RETURN(row, RowFromIds(f, "", base));
    ASSIGN_OR_RETURN(teacher, RowFromIds(f, "teacher_", base));
    RETURN_IF_ERROR(f.Done());
  } else if (f.Has("messages")) {
    const Json& array = f.Array("messages");
    const std::string hint = f.String("hint");
    RETURN_IF_ERROR(f.Done());
    ASSIGN_OR_RETURN(const std::vector<Message> messages, ParseMessages(array));
    if (messages.empty() || messages.back().role != "assistant") {
      return absl::InvalidArgumentError("messages: the last turn is not the assistant's");
    }
    ASSIGN_OR_RETURN(row, RowFromLastTurn(messages, base));
    ASSIGN_OR_RETURN(teacher, RowFromLastTurn(WithHint(messages, hint), base));
  } else {
    const std::string prompt = f.String("prompt");
    const std::string completion = f.String("completion");
    const std::string teacher_prompt = f.String("teacher_prompt");
    RETURN_IF_ERROR(f.Done());
    ASSIGN_OR_RETURN(row, RowFromCompletion(prompt, completion, base));
    ASSIGN_OR_RETURN(teacher, RowFromCompletion(teacher_prompt, completion, base));
  }
  row.counterpart = {std::move(teacher.ids), std::move(teacher.labels)};
  return row;
}

absl::StatusOr<TrainingRow> ParsePolicyRow(JsonFields& f, const BaseModel& base) {
  ASSIGN_OR_RETURN(TrainingRow row, RowFromIds(f, "", base));
  SampleFacts& sample = row.sample;
  sample.advantage = f.OptionalNumber("advantage");
  if (!sample.advantage.has_value()) {
    sample.reward = f.Number("reward");
    sample.group = f.String("group");
  }
  if (f.Has("old_logprobs")) {
    for (const Json& value : f.Array("old_logprobs")) {
      if (!value.is_number() || value.get<double>() > 0) {
        f.Fail("old_logprobs", absl::StrCat(DisplayJson(value), " is no log-probability"));
        break;
      }
      sample.old_log_probs.push_back(value.get<float>());
    }
    const auto given = static_cast<int64_t>(sample.old_log_probs.size());
    if (given != NumTargets(row)) {
      f.Fail("old_logprobs", absl::StrCat(given, " values for ", NumTargets(row), " labels"));
    }
  }
  RETURN_IF_ERROR(f.Done());
  return row;
}

}  // namespace evolora
