#include "token_layout.h"

#include <algorithm>
#include <tuple>
#include <utility>

namespace evolora {
namespace {

// The tokens of a row that are computed.
absl::Span<const TokenId> TaughtIds(const TrainingRow& row) {
  return absl::MakeConstSpan(row.ids).first(static_cast<size_t>(TaughtLength(row)));
}

int64_t CommonPrefix(const TrainingRow& a, const TrainingRow& b) {
  const auto in_a = TaughtIds(a), in_b = TaughtIds(b);
  return std::mismatch(in_a.begin(), in_a.end(), in_b.begin(), in_b.end()).first - in_a.begin();
}

// Rows in lexicographic order of their taught ids: a row's longest common prefix with any earlier
// row is the one with the row before it. Equal rows keep their order.
std::vector<int64_t> Sorted(absl::Span<const TrainingRow> rows, absl::Span<const int64_t> indices) {
  std::vector<int64_t> sorted(indices.begin(), indices.end());
  std::stable_sort(sorted.begin(), sorted.end(), [&](int64_t x, int64_t y) {
    return TaughtIds(rows[static_cast<size_t>(x)]) < TaughtIds(rows[static_cast<size_t>(y)]);
  });
  return sorted;
}

// Builds the forest of rows in lexicographic order.
class Builder {
 public:
  explicit Builder(absl::Span<const TrainingRow> rows) : rows_(rows) {}

  // Segments for the tokens from `depth` on of the sorted rows, which are equal up to there.
  void Add(absl::Span<const int64_t> sorted, int64_t depth, int64_t parent) {
    while (!sorted.empty() && TaughtLength(Row(sorted.front())) <= depth) sorted.remove_prefix(1);
    while (!sorted.empty()) {
      const auto same = static_cast<size_t>(
          std::find_if(sorted.begin(), sorted.end(),
                       [&](int64_t i) { return IdAt(i, depth) != IdAt(sorted.front(), depth); }) -
          sorted.begin());
      AddSegment(sorted.subspan(0, same), depth, parent);
      sorted.remove_prefix(same);
    }
  }

  TokenLayout Finish() {
    layout_.tree_begin.push_back(static_cast<int64_t>(layout_.segments.size()));
    std::sort(labels_.begin(), labels_.end());
    for (const auto& [token, id, label] : labels_) {
      if (layout_.predicting.empty() || layout_.predicting.back() != token) {
        layout_.predicting.push_back(token);
      }
      const auto row = static_cast<int64_t>(layout_.predicting.size()) - 1;
      if (layout_.targets.empty() || layout_.targets.back().row != row ||
          layout_.targets.back().id != id) {
        layout_.targets.push_back({row, id, 0, static_cast<int64_t>(layout_.labels.size())});
      }
      ++layout_.targets.back().count;
      layout_.labels.push_back(label);
    }
    return std::move(layout_);
  }

 private:
  const TrainingRow& Row(int64_t i) const { return rows_[static_cast<size_t>(i)]; }
  TokenId IdAt(int64_t i, int64_t t) const { return Row(i).ids[static_cast<size_t>(t)]; }

  // One segment up to where the rows, all equal at `depth`, part; then what is below it.
  void AddSegment(absl::Span<const int64_t> sorted, int64_t depth, int64_t parent) {
    // A row that is the beginning of all others parts from none of them.
    absl::Span<const int64_t> parting = sorted;
    int64_t end = CommonPrefix(Row(parting.front()), Row(parting.back()));
    while (parting.size() > 1 && end == TaughtLength(Row(parting.front()))) {
      parting.remove_prefix(1);
      end = CommonPrefix(Row(parting.front()), Row(parting.back()));
    }
    const auto index = static_cast<int64_t>(layout_.segments.size());
    if (parent < 0) layout_.tree_begin.push_back(index);
    const auto first_token = static_cast<int64_t>(layout_.ids.size());
    layout_.segments.push_back({.parent = parent,
                                .tree = static_cast<int64_t>(layout_.tree_begin.size()) - 1,
                                .first_token = first_token,
                                .num_tokens = end - depth,
                                .first_position = depth,
                                .row = parting.back()});
    for (int64_t t = depth; t < end; ++t) {
      layout_.ids.push_back(IdAt(parting.back(), t));
      layout_.positions.push_back(t);
    }
    for (const int64_t i : sorted) AddLabels(i, depth, end, first_token - depth);
    Add(parting, end, index);
  }

  void AddLabels(int64_t i, int64_t begin, int64_t end, int64_t shift) {
    const std::vector<TokenId>& labels = Row(i).labels;
    const auto first = labels.begin() + 1;
    const auto teaches = [](TokenId id) { return id != kIgnoreLabel; };
    int64_t ordinal = std::count_if(first, first + std::min(begin, TaughtLength(Row(i))), teaches);
    for (int64_t t = begin; t < std::min(end, TaughtLength(Row(i))); ++t) {
      const TokenId id = labels[static_cast<size_t>(t + 1)];
      if (teaches(id)) labels_.emplace_back(t + shift, id, TokenLayout::Label{i, ordinal++});
    }
  }

  absl::Span<const TrainingRow> rows_;
  TokenLayout layout_;
  std::vector<std::tuple<int64_t, TokenId, TokenLayout::Label>> labels_;  // predicting token, ..
};

// Tokens of row i that the row before it in its batch (-1: none) does not begin with.
int64_t FreshTokens(absl::Span<const TrainingRow> rows, int64_t previous, int64_t i,
                    bool share_prefixes) {
  const TrainingRow& row = rows[static_cast<size_t>(i)];
  const bool shares = share_prefixes && previous >= 0;
  return TaughtLength(row) - (shares ? CommonPrefix(rows[static_cast<size_t>(previous)], row) : 0);
}

}  // namespace

int64_t TaughtLength(const TrainingRow& row) {
  for (auto t = static_cast<int64_t>(row.labels.size()) - 1; t > 0; --t) {
    if (row.labels[static_cast<size_t>(t)] != kIgnoreLabel) return t;
  }
  return 0;
}

TokenLayout LayOutTokens(absl::Span<const TrainingRow> rows, absl::Span<const int64_t> indices,
                         bool share_prefixes) {
  const std::vector<int64_t> sorted = Sorted(rows, indices);
  Builder builder(rows);
  if (share_prefixes) {
    builder.Add(sorted, 0, -1);
  } else {
    for (const int64_t& i : sorted) builder.Add(absl::MakeConstSpan(&i, 1), 0, -1);
  }
  return builder.Finish();
}

TokenLayout JoinLayouts(absl::Span<const TokenLayout* const> layouts) {
  TokenLayout joined;
  for (const TokenLayout* layout : layouts) {
    const auto first_token = static_cast<int64_t>(joined.ids.size());
    const auto first_segment = static_cast<int64_t>(joined.segments.size());
    const auto first_tree = static_cast<int64_t>(joined.tree_begin.size());
    joined.ids.insert(joined.ids.end(), layout->ids.begin(), layout->ids.end());
    joined.positions.insert(joined.positions.end(), layout->positions.begin(),
                            layout->positions.end());
    for (TokenLayout::Segment segment : layout->segments) {
      if (segment.parent < 0)
        joined.tree_begin.push_back(static_cast<int64_t>(joined.segments.size()));
      if (segment.parent >= 0) segment.parent += first_segment;
      segment.tree += first_tree;
      segment.first_token += first_token;
      joined.segments.push_back(segment);
    }
    for (const int64_t m : layout->predicting) joined.predicting.push_back(first_token + m);
  }
  joined.tree_begin.push_back(static_cast<int64_t>(joined.segments.size()));
  return joined;
}

std::vector<std::vector<int64_t>> PackedMicroBatches(absl::Span<const TrainingRow> rows,
                                                     absl::Span<const int64_t> step_rows,
                                                     int64_t max_tokens, bool share_prefixes,
                                                     int64_t group_size) {
  std::vector<int64_t> firsts;
  for (const int64_t i : step_rows) firsts.push_back(i * group_size);
  std::vector<std::vector<int64_t>> batches;
  int64_t num_tokens = 0;
  for (const int64_t first : Sorted(rows, firsts)) {
    const auto fresh_after = [&](int64_t previous) {
      int64_t fresh = 0;
      for (int64_t i = first; i < first + group_size; previous = i++) {
        fresh += FreshTokens(rows, previous, i, share_prefixes);
      }
      return fresh;
    };
    int64_t fresh = fresh_after(batches.empty() ? -1 : batches.back().back());
    if (batches.empty() || num_tokens + fresh > max_tokens) {
      batches.emplace_back();
      num_tokens = 0;
      fresh = fresh_after(-1);
    }
    for (int64_t i = first; i < first + group_size; ++i) batches.back().push_back(i);
    num_tokens += fresh;
  }
  return batches;
}

int64_t NumPackedTokens(absl::Span<const TrainingRow> rows,
                        absl::Span<const std::vector<int64_t>> batches, bool share_prefixes) {
  int64_t tokens = 0;
  for (const std::vector<int64_t>& batch : batches) {
    int64_t previous = -1;
    for (const int64_t i : batch) {
      tokens += FreshTokens(rows, previous, i, share_prefixes);
      previous = i;
    }
  }
  return tokens;
}

}  // namespace evolora
