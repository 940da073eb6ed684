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
#include "row_encoding.h"

namespace evolora {
namespace {

absl::StatusOr<TrainingRow> ParseSftRow(JsonFields& f, const BaseModel& base) {
  if (f.Has("messages")) {
    const Json& array = f.Array("messages");
    RETURN_IF_ERROR(f.Done());
    ASSIGN_OR_RETURN(const std::vector<Message> messages, ParseMessages(array));
    return RowFromMessages(messages, base);
  }
  if (f.Has("prompt")) {
    const std::string prompt = f.String("prompt");
    const std::string completion = f.String("completion");
    RETURN_IF_ERROR(f.Done());
    return RowFromCompletion(prompt, completion, base);
  }
  if (f.Has("ids")) {
    ASSIGN_OR_RETURN(TrainingRow row, RowFromIds(f, "", base));
    RETURN_IF_ERROR(f.Done());
    return row;
  }
  return absl::InvalidArgumentError(
      "a row holds messages, or prompt and completion, or ids and labels");
}

absl::StatusOr<TrainingRow> ParseRowOf(ObjectiveKind objective, JsonFields& fields,
                                       const BaseModel& base) {
  switch (objective) {
    case ObjectiveKind::kSft:
      return ParseSftRow(fields, base);
    case ObjectiveKind::kDistill:
      return ParseDistillRow(fields, base);
    case ObjectiveKind::kDpo:
      return ParsePreferenceRow(fields, base);
    case ObjectiveKind::kPolicy:
      return ParsePolicyRow(fields, base);
  }
  return absl::InternalError("no such objective");
}

absl::StatusOr<TrainingRow> ParseRow(absl::string_view line, ObjectiveKind objective,
                                     const BaseModel& base) {
  ASSIGN_OR_RETURN(const Json json, ParseJson(line));
  JsonFields f(json, "row");
  const bool replay = f.OptionalBool("replay").value_or(false);
  absl::StatusOr<TrainingRow> row = ParseRowOf(objective, f, base);
  if (row.ok()) row->replay = replay;
  return row;
}

// Nothing of a row that is no sample.
void AddSample(const SampleFacts& sample, Sha256& hash) {
  if (!sample.advantage.has_value() && !sample.reward.has_value()) return;
  const int64_t mark = sample.advantage.has_value() ? 3 : 4;
  const double value = sample.advantage.has_value() ? *sample.advantage : *sample.reward;
  const auto group_size = static_cast<int64_t>(sample.group.size());
  hash.Update(&mark, sizeof(mark));
  hash.Update(&value, sizeof(value));
  hash.Update(&group_size, sizeof(group_size));
  hash.Update(sample.group.data(), sample.group.size());
  hash.Update(sample.old_log_probs.data(), sample.old_log_probs.size() * sizeof(float));
}

}  // namespace

int64_t NumTargets(const TrainingRow& row) { return NumTargets(row.labels); }

int64_t NumTargets(absl::Span<const TokenId> labels) {
  if (labels.empty()) return 0;
  return std::count_if(labels.begin() + 1, labels.end(),
                       [](TokenId label) { return label != kIgnoreLabel; });
}

absl::StatusOr<std::vector<TrainingRow>> ParseTrainingRows(absl::string_view jsonl,
                                                           const BaseModel& base,
                                                           ObjectiveKind objective) {
  std::vector<TrainingRow> rows;
  int64_t line_number = 0;
  for (absl::string_view line : absl::StrSplit(jsonl, '\n')) {
    ++line_number;
    line = absl::StripAsciiWhitespace(line);
    if (line.empty()) continue;
    absl::StatusOr<TrainingRow> row = ParseRow(line, objective, base);
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
  const auto add = [&](absl::Span<const TokenId> ids, absl::Span<const TokenId> labels,
                       int64_t mark) {
    const int64_t header[2] = {static_cast<int64_t>(ids.size()), mark};
    hash.Update(header, sizeof(header));
    hash.Update(ids.data(), ids.size() * sizeof(TokenId));
    hash.Update(labels.data(), labels.size() * sizeof(TokenId));
  };
  for (const TrainingRow& row : rows) {
    add(row.ids, row.labels, row.replay ? 1 : 0);
    if (!row.counterpart.ids.empty()) add(row.counterpart.ids, row.counterpart.labels, 2);
    AddSample(row.sample, hash);
  }
  return hash.FinishHex();
}

}  // namespace evolora
