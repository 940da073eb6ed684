#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "evolora/core/tokenizer.h"
#include "evolora/model/base_model.h"

namespace evolora {

inline constexpr TokenId kIgnoreLabel = -100;

// One tokenised training row. labels[t] is the target at position t in Hugging Face's convention:
// equal to ids[t] where the row teaches, kIgnoreLabel elsewhere; the trainer shifts by one.
struct TrainingRow {
  std::vector<TokenId> ids;
  std::vector<TokenId> labels;  // same length
  bool replay = false;          // protects behaviour; mixed in by LoraRecipe::replay_share
  std::string text;             // request text, for leak checks and messages; may be empty
  int64_t line = 0;             // of the file it came from, from 1; 0 = none; for messages only
};

// Labels the row teaches: all but one at its first token, which nothing predicts.
int64_t NumTargets(const TrainingRow& row);

// Parses a JSON-lines training file. A row is one of
//   {"messages": [{"role","content"} ..]}   assistant turns and their end-of-turn marks are
//   labelled
//   {"prompt": str, "completion": str}      the completion and the end token are labelled
//   {"ids": [..], "labels": [..]}           as they are (no tokenizer needed)
// each with an optional "replay": bool. Errors: InvalidArgument "line N: ..." for bad JSON, unknown
// fields, ids outside the vocabulary, lengths that differ; FailedPrecondition when text rows meet a
// base without tokenizer.
absl::StatusOr<std::vector<TrainingRow>> ParseTrainingRows(absl::string_view jsonl,
                                                           const BaseModel& base);

// The ids that end an assistant's turn or a text: the chat format's mark and the tokenizer's end of
// text. Empty for a base without tokenizer.
std::vector<TokenId> EndOfTurnIds(const BaseModel& base);

// SHA-256 over ids, labels and replay marks: the data identity a checkpoint is bound to.
std::string TrainingRowsDigest(absl::Span<const TrainingRow> rows);

}  // namespace evolora
