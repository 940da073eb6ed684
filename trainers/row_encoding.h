#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "evolora/core/json.h"
#include "evolora/core/message.h"
#include "evolora/trainers/training_data.h"

namespace evolora {

// How the texts and ids of a row become a TrainingRow. Errors as ParseTrainingRows gives them,
// without the line.

// A JSON array of {"role", "content"}.
absl::StatusOr<std::vector<Message>> ParseMessages(const Json& array);
// A chat; its assistant turns are labelled.
absl::StatusOr<TrainingRow> RowFromMessages(absl::Span<const Message> messages,
                                            const BaseModel& base);
// A chat that ends with an assistant turn, which alone is labelled.
absl::StatusOr<TrainingRow> RowFromLastTurn(absl::Span<const Message> messages,
                                            const BaseModel& base);
absl::StatusOr<TrainingRow> RowFromCompletion(const std::string& prompt,
                                              const std::string& completion, const BaseModel& base);
// Arrays `<prefix>ids` and `<prefix>labels` of a row.
absl::StatusOr<TrainingRow> RowFromIds(JsonFields& fields, const std::string& prefix,
                                       const BaseModel& base);

// One row of a file for an objective that compares two answers.
//   {"prompt": str, "chosen": str, "rejected": str}
//   {"messages": [..], "chosen": str, "rejected": str}   the chat up to the answer
//   {"chosen_ids", "chosen_labels", "rejected_ids", "rejected_labels"}
absl::StatusOr<TrainingRow> ParsePreferenceRow(JsonFields& fields, const BaseModel& base);

// One row of a file for self-distillation; the teacher's sequence becomes its counterpart.
//   {"messages": [..], "hint": str}
//   {"prompt": str, "completion": str, "teacher_prompt": str}
//   {"ids", "labels", "teacher_ids", "teacher_labels"}
absl::StatusOr<TrainingRow> ParseDistillRow(JsonFields& fields, const BaseModel& base);

// One row of a file for policy gradients: {"ids", "labels"}, optional "old_logprobs", and
// "advantage" or "reward" with "group".
absl::StatusOr<TrainingRow> ParsePolicyRow(JsonFields& fields, const BaseModel& base);

}  // namespace evolora
