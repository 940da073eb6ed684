#include "evolora/trainers/data_lint.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <optional>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"

namespace evolora {
namespace {

constexpr size_t kMaxNamed = 5;

int64_t Length(const TrainingRow& row) { return static_cast<int64_t>(row.ids.size()); }

// Of the row or of its counterpart.
int64_t LongestLength(const TrainingRow& row) {
  return std::max(Length(row), static_cast<int64_t>(row.counterpart.ids.size()));
}

int64_t LengthLimit(const LintLimits& limits) {
  return std::min(limits.max_row_tokens, limits.max_positions);
}

// A list of findings that names the first few and counts the others.
class Findings {
 public:
  void Add(std::string text) {
    if (named_.size() < kMaxNamed) {
      named_.push_back(std::move(text));
    } else {
      ++num_more_;
    }
  }
  bool empty() const { return named_.empty(); }
  std::string Text(absl::string_view separator) const {
    std::string text = absl::StrJoin(named_, separator);
    if (num_more_ > 0) absl::StrAppend(&text, separator, "and ", num_more_, " more");
    return text;
  }

 private:
  std::vector<std::string> named_;
  int64_t num_more_ = 0;
};

std::string Percent(double share) { return absl::StrFormat("%.3g %%", 100 * share); }

// The part of a row that is trained on, [0, end): what CutLongRows leaves of it.
size_t KeptTokens(const TrainingRow& row, const LintLimits& limits) {
  return static_cast<size_t>(std::min(Length(row), LengthLimit(limits)));
}

std::optional<std::string> VocabularyFault(const TrainingRow& row, int64_t vocab_size) {
  const auto outside = [vocab_size](TokenId id) { return id < 0 || id >= vocab_size; };
  for (size_t t = 0; t < row.ids.size(); ++t) {
    if (outside(row.ids[t])) {
      return absl::StrCat("ids[", t, "] is ", row.ids[t], ", the vocabulary has ", vocab_size,
                          " ids");
    }
    if (row.labels[t] != kIgnoreLabel && outside(row.labels[t])) {
      return absl::StrCat("labels[", t, "] is ", row.labels[t], ", the vocabulary has ", vocab_size,
                          " ids (", kIgnoreLabel, " = no label)");
    }
  }
  return std::nullopt;
}

std::optional<std::string> RowFault(const TrainingRow& row, const LintLimits& limits) {
  if (row.ids.size() != row.labels.size()) {
    return absl::StrCat(row.ids.size(), " ids and ", row.labels.size(), " labels");
  }
  if (const auto fault = VocabularyFault(row, limits.vocab_size)) return fault;
  const size_t kept = KeptTokens(row, limits);
  const auto taught = [](TokenId label) { return label != kIgnoreLabel; };
  if (kept > 1 && std::any_of(row.labels.begin() + 1,
                              row.labels.begin() + static_cast<std::ptrdiff_t>(kept), taught)) {
    return std::nullopt;
  }
  const std::string cut = kept < row.ids.size()
                              ? absl::StrCat("the first ", kept, " of its ", row.ids.size())
                              : absl::StrCat("its ", kept);
  return absl::StrCat("none of ", cut, " tokens is labelled (at position 1 or later), at least 1");
}

// Whether a label of an end of turn is among those that are trained on.
bool LabelsAnEnd(const TrainingRow& row, const LintLimits& limits) {
  for (size_t t = 1; t < KeptTokens(row, limits); ++t) {
    const bool ends = std::find(limits.end_ids.begin(), limits.end_ids.end(), row.labels[t]) !=
                      limits.end_ids.end();
    if (ends) return true;
  }
  return false;
}

// Rows that teach the task: all but the replay rows, or those where there are no others.
std::vector<size_t> TaskRows(absl::Span<const TrainingRow> rows) {
  std::vector<size_t> task, all(rows.size());
  std::iota(all.begin(), all.end(), size_t{0});
  for (const size_t i : all) {
    if (!rows[i].replay) task.push_back(i);
  }
  return task.empty() ? all : task;
}

std::vector<size_t> OpenRows(absl::Span<const TrainingRow> rows, const LintLimits& limits) {
  std::vector<size_t> open;
  if (limits.end_ids.empty()) return open;
  for (const size_t i : TaskRows(rows)) {
    if (!LabelsAnEnd(rows[i], limits)) open.push_back(i);
  }
  return open;
}

std::vector<size_t> LongRows(absl::Span<const TrainingRow> rows, const LintLimits& limits) {
  std::vector<size_t> too_long;
  for (size_t i = 0; i < rows.size(); ++i) {
    if (LongestLength(rows[i]) > LengthLimit(limits)) too_long.push_back(i);
  }
  return too_long;
}

void AddLongRows(absl::Span<const TrainingRow> rows, const LintLimits& limits, Findings& faults) {
  const std::vector<size_t> too_long = LongRows(rows, limits);
  const double share = static_cast<double>(too_long.size()) / static_cast<double>(rows.size());
  if (share <= limits.max_cut_share) return;
  if (limits.max_cut_share > 0) {
    faults.Add(absl::StrCat(too_long.size(), " of ", rows.size(), " rows (", Percent(share),
                            ") would be cut at ", LengthLimit(limits), " tokens, at most ",
                            Percent(limits.max_cut_share)));
  }
  for (const size_t i : too_long) {
    const bool context = LongestLength(rows[i]) > limits.max_positions;
    faults.Add(absl::StrCat(RowName(rows, i), ": ", LongestLength(rows[i]), " tokens, at most ",
                            context ? limits.max_positions : limits.max_row_tokens,
                            context ? " (the base's context)" : " (recipe.max_row_tokens)"));
  }
}

absl::Status Refusal(const Findings& faults) {
  return absl::InvalidArgumentError(absl::StrCat("training data: ", faults.Text("; ")));
}

bool SameRow(const TrainingRow& a, const TrainingRow& b) {
  return a.ids == b.ids && a.labels == b.labels && a.counterpart.ids == b.counterpart.ids;
}

// Pairs of a row and the first one that equals it.
std::vector<std::pair<size_t, size_t>> Repeats(absl::Span<const TrainingRow> rows) {
  std::vector<size_t> sorted(rows.size());
  std::iota(sorted.begin(), sorted.end(), size_t{0});
  std::stable_sort(sorted.begin(), sorted.end(), [&](size_t x, size_t y) {
    return std::tie(rows[x].ids, rows[x].labels, rows[x].counterpart.ids) <
           std::tie(rows[y].ids, rows[y].labels, rows[y].counterpart.ids);
  });
  std::vector<std::pair<size_t, size_t>> repeats;
  for (size_t i = 1, first = 0; i < sorted.size(); ++i) {
    if (SameRow(rows[sorted[first]], rows[sorted[i]])) {
      repeats.emplace_back(sorted[i], sorted[first]);
    } else {
      first = i;
    }
  }
  std::sort(repeats.begin(), repeats.end());
  return repeats;
}

std::string NamesOf(absl::Span<const TrainingRow> rows, const std::vector<size_t>& indices) {
  Findings names;
  for (const size_t i : indices) names.Add(RowName(rows, i));
  return names.Text(", ");
}

}  // namespace

std::string RowName(absl::Span<const TrainingRow> rows, size_t index) {
  const int64_t line = rows[index].line;
  return line > 0 ? absl::StrCat("line ", line, " (row ", index, ")") : absl::StrCat("row ", index);
}

absl::Status LintTrainingRows(absl::Span<const TrainingRow> rows, const LintLimits& limits) {
  if (rows.empty()) {
    return absl::InvalidArgumentError("the training data has 0 rows, at least 1");
  }
  Findings faults;
  AddLongRows(rows, limits, faults);
  for (size_t i = 0; i < rows.size(); ++i) {
    const TokenSequence& other = rows[i].counterpart;
    auto fault = RowFault(rows[i], limits);
    if (!fault.has_value() && !other.ids.empty()) {
      fault = RowFault({.ids = other.ids, .labels = other.labels}, limits);
    }
    if (fault.has_value()) faults.Add(absl::StrCat(RowName(rows, i), ": ", *fault));
  }
  if (!faults.empty()) return Refusal(faults);
  const std::vector<size_t> open = OpenRows(rows, limits);
  if (open.empty() || open.size() < TaskRows(rows).size()) return absl::OkStatus();
  faults.Add(absl::StrCat("0 of ", open.size(), " rows label an end of turn (id ",
                          absl::StrJoin(limits.end_ids, " or "),
                          "), at least 1: the model would not learn to stop; ",
                          NamesOf(rows, open)));
  return Refusal(faults);
}

std::vector<std::string> TrainingRowWarnings(absl::Span<const TrainingRow> rows,
                                             const LintLimits& limits) {
  std::vector<std::string> warnings;
  const auto repeats = Repeats(rows);
  if (!repeats.empty()) {
    Findings pairs;
    for (const auto& [again, first] : repeats) {
      pairs.Add(absl::StrCat(RowName(rows, again), " repeats ", RowName(rows, first)));
    }
    warnings.push_back(
        absl::StrCat(repeats.size(), " of ", rows.size(), " rows are repeats: ", pairs.Text("; ")));
  }
  const std::vector<size_t> open = OpenRows(rows, limits);
  if (!open.empty()) {
    warnings.push_back(
        absl::StrCat(open.size(), " of ", TaskRows(rows).size(), " rows label no end of turn (id ",
                     absl::StrJoin(limits.end_ids, " or "), "): ", NamesOf(rows, open)));
  }
  const std::vector<size_t> too_long = LongRows(rows, limits);
  if (!too_long.empty()) {
    warnings.push_back(absl::StrCat(too_long.size(), " of ", rows.size(), " rows are cut at ",
                                    LengthLimit(limits), " tokens: ", NamesOf(rows, too_long)));
  }
  return warnings;
}

int64_t CutLongRows(std::vector<TrainingRow>& rows, const LintLimits& limits) {
  const std::vector<size_t> too_long = LongRows(rows, limits);
  for (const size_t i : too_long) {
    if (Length(rows[i]) <= LengthLimit(limits)) continue;
    rows[i].ids.resize(static_cast<size_t>(LengthLimit(limits)));
    rows[i].labels.resize(static_cast<size_t>(LengthLimit(limits)));
  }
  return static_cast<int64_t>(too_long.size());
}

}  // namespace evolora
