#include "token_layout.h"

#include <algorithm>
#include <numeric>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace evolora {
namespace {

using ::testing::ElementsAre;

TrainingRow Labelled(std::vector<TokenId> ids, size_t first_label) {
  TrainingRow row{.ids = ids, .labels = ids};
  for (size_t t = 0; t < first_label; ++t) row.labels[t] = kIgnoreLabel;
  return row;
}

// A row of which `ids` are computed: its last token is predicted alone.
TrainingRow Row(std::vector<TokenId> ids) {
  ids.push_back(99);
  return Labelled(ids, 1);
}

std::vector<int64_t> All(const std::vector<TrainingRow>& rows) {
  std::vector<int64_t> indices(rows.size());
  std::iota(indices.begin(), indices.end(), 0);
  return indices;
}

TokenLayout LayOut(const std::vector<TrainingRow>& rows, bool share = true) {
  return LayOutTokens(rows, All(rows), share);
}

// The ids a layout gives back for the segment and those above it.
std::vector<TokenId> Path(const TokenLayout& layout, int64_t segment) {
  const TokenLayout::Segment& s = layout.segments[static_cast<size_t>(segment)];
  std::vector<TokenId> ids;
  if (s.parent >= 0) ids = Path(layout, s.parent);
  EXPECT_EQ(static_cast<int64_t>(ids.size()), s.first_position);
  const auto first = layout.ids.begin() + s.first_token;
  ids.insert(ids.end(), first, first + s.num_tokens);
  return ids;
}

TEST(LayOutTokens, ACommonPrefixIsHeldOnce) {
  const TokenLayout layout = LayOut({Row({1, 2, 3, 4}), Row({1, 2, 5}), Row({9, 8})});
  EXPECT_THAT(layout.ids, ElementsAre(1, 2, 3, 4, 5, 9, 8));
  EXPECT_THAT(layout.positions, ElementsAre(0, 1, 2, 3, 2, 0, 1));
  ASSERT_EQ(layout.segments.size(), 4u);
  EXPECT_THAT(layout.tree_begin, ElementsAre(0, 3, 4));
  EXPECT_THAT(Path(layout, 1), ElementsAre(1, 2, 3, 4));
  EXPECT_THAT(Path(layout, 2), ElementsAre(1, 2, 5));
  EXPECT_EQ(layout.segments[2].tree, 0);
  EXPECT_EQ(layout.segments[3].tree, 1);
}

TEST(LayOutTokens, ARowThatBeginsAnotherAddsNoTokenAndCutsNoSegment) {
  const TokenLayout layout = LayOut({Row({1, 2}), Row({1, 2, 3}), Row({1}), Row({1, 2, 3, 4})});
  EXPECT_THAT(layout.ids, ElementsAre(1, 2, 3, 4));
  EXPECT_EQ(layout.segments.size(), 1u);
}

TEST(LayOutTokens, PrefixesBranchAtSeveralDepths) {
  const std::vector<TrainingRow> rows = {Row({1, 2, 3, 4, 5}), Row({1, 2, 3, 4, 6}), Row({1, 2, 7}),
                                         Row({1, 2, 3})};
  const TokenLayout layout = LayOut(rows);
  EXPECT_EQ(layout.ids.size(), 7u);
  ASSERT_EQ(layout.segments.size(), 5u);
  EXPECT_THAT(Path(layout, 2), ElementsAre(1, 2, 3, 4, 5));
  EXPECT_THAT(Path(layout, 3), ElementsAre(1, 2, 3, 4, 6));
  EXPECT_THAT(Path(layout, 4), ElementsAre(1, 2, 7));
  for (size_t i = 0; i < layout.segments.size(); ++i) {
    EXPECT_LT(layout.segments[i].parent, static_cast<int64_t>(i));
  }
}

TEST(LayOutTokens, ASharedTokenPredictsWhatEachOfItsRowsLabels) {
  const TokenLayout layout = LayOut({Labelled({1, 2, 3}, 2), Labelled({1, 2, 4}, 1),
                                     Labelled({1, 2, 3}, 1), Labelled({1, 2}, 2)});
  EXPECT_THAT(layout.ids, ElementsAre(1, 2));
  EXPECT_THAT(layout.predicting, ElementsAre(0, 1));
  ASSERT_EQ(layout.targets.size(), 3u);
  EXPECT_EQ(layout.targets[0].id, 2);
  EXPECT_EQ(layout.targets[0].count, 2);  // the first and the last row do not label position 1
  EXPECT_EQ(layout.targets[1].id, 3);
  EXPECT_EQ(layout.targets[1].count, 2);
  EXPECT_EQ(layout.targets[2].id, 4);
  EXPECT_EQ(layout.targets[2].row, 1);
}

TEST(LayOutTokens, TokensBehindTheLastLabelAreLeftOut) {
  TrainingRow early = Labelled({1, 2, 3, 4, 5, 6}, 2);
  std::fill(early.labels.begin() + 4, early.labels.end(), kIgnoreLabel);
  TrainingRow silent = Labelled({1, 2, 3}, 3), only_first = silent;
  only_first.labels[0] = 1;  // what no token predicts
  EXPECT_EQ(TaughtLength(early), 3);
  EXPECT_EQ(TaughtLength(silent), 0);
  EXPECT_EQ(TaughtLength(only_first), 0);
  for (const bool share : {true, false}) {
    const TokenLayout layout = LayOut({silent, early, only_first}, share);
    EXPECT_THAT(layout.ids, ElementsAre(1, 2, 3));
    EXPECT_THAT(layout.predicting, ElementsAre(1, 2));
    EXPECT_THAT(layout.tree_begin, ElementsAre(0, 1));
    EXPECT_TRUE(LayOut({silent}, share).ids.empty());
  }
}

TEST(LayOutTokens, RowsThatPartBehindTheirLastLabelsAreOne) {
  TrainingRow a = Labelled({1, 2, 3, 4}, 2), b = Labelled({1, 2, 3, 5}, 2);
  a.labels[3] = b.labels[3] = kIgnoreLabel;
  const TokenLayout layout = LayOut({a, b});
  EXPECT_THAT(layout.ids, ElementsAre(1, 2));
  ASSERT_EQ(layout.targets.size(), 1u);
  EXPECT_EQ(layout.targets[0].count, 2);
}

TEST(LayOutTokens, WithoutSharingEveryRowIsATreeOfItsOwn) {
  const TokenLayout layout = LayOut({Row({1, 2, 3}), Row({1, 2, 3})}, /*share=*/false);
  EXPECT_THAT(layout.ids, ElementsAre(1, 2, 3, 1, 2, 3));
  EXPECT_THAT(layout.tree_begin, ElementsAre(0, 1, 2));
}

TEST(JoinLayouts, StandsOneForestBehindAnotherAndSharesNothing) {
  const TokenLayout a = LayOut({Row({1, 2, 3}), Row({1, 2, 4})}), b = LayOut({Row({1, 2, 3})});
  const TokenLayout joined = JoinLayouts({&a, &b, &a});
  EXPECT_THAT(joined.ids, ElementsAre(1, 2, 3, 4, 1, 2, 3, 1, 2, 3, 4));
  EXPECT_THAT(joined.positions, ElementsAre(0, 1, 2, 2, 0, 1, 2, 0, 1, 2, 2));
  EXPECT_THAT(joined.tree_begin, ElementsAre(0, 3, 4, 7));
  EXPECT_THAT(Path(joined, 2), ElementsAre(1, 2, 4));
  EXPECT_THAT(Path(joined, 3), ElementsAre(1, 2, 3));
  EXPECT_THAT(Path(joined, 6), ElementsAre(1, 2, 4));
  EXPECT_EQ(joined.segments[6].tree, 2);
  ASSERT_EQ(joined.predicting.size(), 2 * a.predicting.size() + b.predicting.size());
  EXPECT_EQ(joined.predicting.back(), 7 + a.predicting.back());
}

TEST(PackedMicroBatches, CountASharedPrefixOnceAndLoseNoRow) {
  const std::vector<TrainingRow> rows = {Row({7, 1}), Row({1, 2, 3, 4}), Row({1, 2, 3, 5}),
                                         Row({6, 6, 6}), Row({1, 2, 3, 6, 6})};
  // Sorted: rows 1, 2, 4 hold 4 + 1 + 2 tokens together; rows 3 and 0 hold 3 + 2.
  EXPECT_THAT(PackedMicroBatches(rows, All(rows), 7),
              ElementsAre(ElementsAre(1, 2, 4), ElementsAre(3, 0)));
  EXPECT_EQ(PackedMicroBatches(rows, All(rows), 1).size(), 5u);
  EXPECT_EQ(PackedMicroBatches(rows, All(rows), 12).size(), 1u);
}

TEST(PackedMicroBatches, ARowCutOffFromItsPrefixCountsInFull) {
  const std::vector<TrainingRow> rows = {Row({1, 2, 3, 4}), Row({1, 2, 3, 5}), Row({1, 2, 3, 6}),
                                         Row({1, 2, 3, 7})};
  const auto batches = PackedMicroBatches(rows, All(rows), 5);
  EXPECT_THAT(batches, ElementsAre(ElementsAre(0, 1), ElementsAre(2, 3)));
}

}  // namespace
}  // namespace evolora
