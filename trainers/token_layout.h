#pragma once

#include <compare>
#include <cstdint>
#include <vector>

#include "absl/types/span.h"
#include "evolora/trainers/training_data.h"

namespace evolora {

// How many tokens of a row stand before its last label: those behind them bear on no loss and no
// gradient. 0: no label is predicted.
int64_t TaughtLength(const TrainingRow& row);

// The tokens of a micro-batch, packed without padding: a forest of segments. A row here is its
// first TaughtLength tokens. Rows that begin with the same tokens share the segments of their
// common prefix, so that those tokens are computed once; a token sees the segments above its own
// and the earlier tokens of its own. A row of its own is one segment.
struct TokenLayout {
  struct Segment {
    int64_t parent = -1;  // index of an earlier segment, -1 = the start of rows
    int64_t tree = 0;     // segments of different trees share no token
    int64_t first_token = 0;
    int64_t num_tokens = 0;  // at least one
    int64_t first_position = 0;
    int64_t row = 0;  // index of a row that has these tokens
  };
  // What the hidden state at one token has to predict: once for each row that labels it.
  struct Target {
    int64_t row = 0;  // index into `predicting`
    TokenId id = 0;
    int64_t count = 0;
    int64_t first_label = 0;  // its labels: `count` entries of `labels` from here on
  };
  // One label of one row.
  struct Label {
    int64_t sequence = 0;  // index of the row
    int64_t ordinal = 0;   // how many of the row's targets stand before it
    friend auto operator<=>(const Label&, const Label&) = default;  // NOLINT(*-use-nullptr)
  };
  std::vector<TokenId> ids;         // [N]
  std::vector<int64_t> positions;   // [N], the depth in the forest
  std::vector<Segment> segments;    // parents before children; tokens in segment order
  std::vector<int64_t> tree_begin;  // first segment of each tree, and the number of segments
  std::vector<int64_t> predicting;  // [M] tokens with a target, ascending
  std::vector<Target> targets;      // ascending by row, then id
  std::vector<Label> labels;        // of the targets, in their order
};

// Layout of rows[i], i in `indices`; rows are not empty. A label at t is a target of the hidden
// state at t - 1. Without `share_prefixes` every row is a tree of its own.
TokenLayout LayOutTokens(absl::Span<const TrainingRow> rows, absl::Span<const int64_t> indices,
                         bool share_prefixes = true);

// Layouts one after another as one: no segment is shared, targets and labels are left out.
TokenLayout JoinLayouts(absl::Span<const TokenLayout* const> layouts);

// Cuts one optimiser step's rows into micro-batches of at most `max_tokens` tokens, shared prefixes
// counted once, those behind a row's last label not. Rows with a common prefix stand together. A
// single longer row is a batch of its own. Without `share_prefixes` every token counts. With
// group_size G, step_rows[i] stands for the G rows from step_rows[i] * G on, which stay in one
// batch; the batches hold indices of `rows`.
std::vector<std::vector<int64_t>> PackedMicroBatches(absl::Span<const TrainingRow> rows,
                                                     absl::Span<const int64_t> step_rows,
                                                     int64_t max_tokens, bool share_prefixes = true,
                                                     int64_t group_size = 1);
// Tokens that those batches compute, counted as it does.
int64_t NumPackedTokens(absl::Span<const TrainingRow> rows,
                        absl::Span<const std::vector<int64_t>> batches, bool share_prefixes);

}  // namespace evolora
