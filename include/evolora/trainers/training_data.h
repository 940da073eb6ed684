#pragma once

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "evolora/core/tokenizer.h"
#include "evolora/model/base_model.h"
#include "evolora/trainers/objective.h"

namespace evolora {

inline constexpr TokenId kIgnoreLabel = -100;

struct TokenSequence {
  std::vector<TokenId> ids;
  std::vector<TokenId> labels;  // same length, as in TrainingRow
};

// What is known of a row that was sampled from a model.
struct SampleFacts {
  std::optional<double> advantage;   // as it is; or
  std::optional<double> reward;      // compared with the other rows of `group`
  std::string group;                 // by custom the prompt's name
  std::vector<float> old_log_probs;  // natural log, of each label, in order; empty: unknown
};

// One tokenised training row. labels[t] is the target at position t in Hugging Face's convention:
// equal to ids[t] where the row teaches, kIgnoreLabel elsewhere; the trainer shifts by one.
struct TrainingRow {
  std::vector<TokenId> ids;
  std::vector<TokenId> labels;  // same length
  bool replay = false;          // protects behaviour; mixed in by LoraRecipe::replay_share
  std::string text;             // request text, for leak checks and messages; may be empty
  int64_t line = 0;             // of the file it came from, from 1; 0 = none; for messages only
  // dpo: the rejected answer after the same prompt; distill: the row as the teacher sees it, with
  // the same ids labelled; else empty.
  TokenSequence counterpart;
  SampleFacts sample;  // policy
};

// Labels the row teaches: all but one at its first token, which nothing predicts.
int64_t NumTargets(const TrainingRow& row);
int64_t NumTargets(absl::Span<const TokenId> labels);

// Parses a JSON-lines training file for an objective. Of "sft" a row is one of
//   {"messages": [{"role","content"} ..]}   assistant turns and their end-of-turn marks are
//   labelled
//   {"prompt": str, "completion": str}      the completion and the end token are labelled
//   {"ids": [..], "labels": [..]}           as they are (no tokenizer needed)
// of "dpo" one of
//   {"messages": [..], "chosen": str, "rejected": str}   messages end before the answer; the answer
//                                                        and its end-of-turn mark are labelled
//   {"prompt": str, "chosen": str, "rejected": str}      the answer and the end token are labelled
//   {"chosen_ids", "chosen_labels", "rejected_ids", "rejected_labels": [..]}   as they are
// of "distill" one of
//   {"messages": [..], "hint": str}   the last turn is the assistant's and labelled; the teacher
//                                     reads the hint as the last paragraph of the system turn
//   {"prompt": str, "completion": str, "teacher_prompt": str}
//   {"ids", "labels", "teacher_ids", "teacher_labels": [..]}   the same ids labelled in both
// of "policy"
//   {"ids": [..], "labels": [..], "old_logprobs": [..],
//    "advantage": number | "reward": number, "group": str}
//   old_logprobs: natural log, of each label but one at the first token, when the row was sampled;
//   without it, those of the adapter that the run starts from. `evolora generate --logprobs` gives
//   ids, labels and old_logprobs.
// each with an optional "replay": bool. Errors: InvalidArgument "line N: ..." for bad JSON, unknown
// fields, ids outside the vocabulary, lengths that differ; FailedPrecondition when text rows meet a
// base without tokenizer.
absl::StatusOr<std::vector<TrainingRow>> ParseTrainingRows(
    absl::string_view jsonl, const BaseModel& base, ObjectiveKind objective = ObjectiveKind::kSft);

// The ids that end an assistant's turn or a text: the chat format's mark and the tokenizer's end of
// text. Empty for a base without tokenizer.
std::vector<TokenId> EndOfTurnIds(const BaseModel& base);

// SHA-256 over ids, labels and replay marks: the data identity a checkpoint is bound to.
std::string TrainingRowsDigest(absl::Span<const TrainingRow> rows);

}  // namespace evolora
