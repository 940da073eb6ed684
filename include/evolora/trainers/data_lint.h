#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/types/span.h"
#include "evolora/trainers/training_data.h"

namespace evolora {

// What a data set is held against.
struct LintLimits {
  int64_t max_row_tokens = 2048;  // of the recipe
  int64_t max_positions = 0;      // context of the base
  int64_t vocab_size = 0;         // of the base
  // Tokens that end a turn or a text (EndOfTurnIds); empty = not known: their rule is off.
  std::vector<TokenId> end_ids;
  // Share of the rows that may be longer than max_row_tokens, because CutLongRows will cut them.
  // 0 = none. A row longer than the context counts as one to be cut too.
  double max_cut_share = 0;
};

// Refuses, before the first step, a data set that cannot teach what it says (a row's counterpart is
// held against the same limits):
//   no rows; more rows too long than the stated share; a row with ids and labels of different
//   lengths, an id or a label outside the vocabulary, no labelled target (behind the cut, where it
//   is cut); no row at all that labels an end of turn
// InvalidArgument with one line for each fault, at most five, and the number of the others: the
// row's line and number from 0, what, the number found, the limit.
absl::Status LintTrainingRows(absl::Span<const TrainingRow> rows, const LintLimits& limits);

// What is odd but may be meant, one sentence each: rows that occur more than once, rows that label
// no end of turn beside others that do, rows that will be cut. REQUIRES: LintTrainingRows is OK.
std::vector<std::string> TrainingRowWarnings(absl::Span<const TrainingRow> rows,
                                             const LintLimits& limits);

// Cuts every longer row (never a counterpart: only rows of "sft" may be cut) at max_row_tokens or
// the context, whichever is less. Returns how many were cut.
int64_t CutLongRows(std::vector<TrainingRow>& rows, const LintLimits& limits);

// "line 12 (row 9)", or "row 9" for a row that came from no file.
std::string RowName(absl::Span<const TrainingRow> rows, size_t index);

}  // namespace evolora
