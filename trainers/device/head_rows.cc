#include "device/head_rows.h"

#include <algorithm>
#include <tuple>

namespace evolora {
namespace {

using Label = TokenLayout::Label;
using Target = TokenLayout::Target;

struct LabelRow {
  Label label;
  int64_t copy = 0;  // equal labels before it
  int64_t token = 0;
  TokenId id = 0;
};

std::vector<LabelRow> SortedLabels(const TokenLayout& layout) {
  std::vector<LabelRow> rows;
  for (const Target& target : layout.targets) {
    for (int64_t i = target.first_label; i < target.first_label + target.count; ++i) {
      const int64_t token = layout.predicting[static_cast<size_t>(target.row)];
      rows.push_back({layout.labels[static_cast<size_t>(i)], 0, token, target.id});
    }
  }
  std::stable_sort(rows.begin(), rows.end(),
                   [](const LabelRow& a, const LabelRow& b) { return a.label < b.label; });
  for (size_t i = 1; i < rows.size(); ++i) {
    if (rows[i].label == rows[i - 1].label) rows[i].copy = rows[i - 1].copy + 1;
  }
  std::sort(rows.begin(), rows.end(), [](const LabelRow& a, const LabelRow& b) {
    return std::tie(a.label.sequence, a.copy, a.label.ordinal) <
           std::tie(b.label.sequence, b.copy, b.label.ordinal);
  });
  return rows;
}

}  // namespace

HeadRows RowsByToken(const TokenLayout& layout) {
  HeadRows head = {.tokens = layout.predicting};
  for (const Target& target : layout.targets) {
    if (static_cast<size_t>(target.row) == head.first_target.size()) {
      head.first_target.push_back(static_cast<int32_t>(head.ids.size()));
    }
    head.ids.push_back(target.id);
    head.counts.push_back(static_cast<int32_t>(target.count));
  }
  head.first_target.push_back(static_cast<int32_t>(head.ids.size()));
  return head;
}

HeadRows RowsByLabel(const TokenLayout& layout) {
  HeadRows head;
  for (const LabelRow& row : SortedLabels(layout)) {
    head.first_target.push_back(static_cast<int32_t>(head.ids.size()));
    head.tokens.push_back(row.token);
    head.ids.push_back(row.id);
    head.counts.push_back(1);
    head.labels.push_back(row.label);
  }
  head.first_target.push_back(static_cast<int32_t>(head.ids.size()));
  return head;
}

}  // namespace evolora
