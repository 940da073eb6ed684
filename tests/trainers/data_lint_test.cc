#include "evolora/trainers/data_lint.h"

#include <string>
#include <vector>

#include "support/status_matchers.h"

namespace evolora {
namespace {

using ::evolora::testing::IsOk;
using ::evolora::testing::StatusIs;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr TokenId kEnd = 9;
constexpr TokenId kNone = kIgnoreLabel;

LintLimits Limits() {
  return {.max_row_tokens = 8, .max_positions = 16, .vocab_size = 10, .end_ids = {kEnd}};
}

TrainingRow Row(std::vector<TokenId> ids, std::vector<TokenId> labels, int64_t line = 0) {
  return {.ids = std::move(ids), .labels = std::move(labels), .line = line};
}

// A row that teaches: `salt`, then the end.
TrainingRow Good(TokenId salt = 1) { return Row({salt, 2, kEnd}, {kNone, 2, kEnd}); }

TrainingRow Long(int64_t length) {
  const auto n = static_cast<size_t>(length);
  TrainingRow row = Row(std::vector<TokenId>(n, 3), std::vector<TokenId>(n, 3));
  row.labels[1] = kEnd;
  return row;
}

TEST(LintTrainingRows, NamesRowWhatNumberAndLimit) {
  struct Case {
    const char* name;
    TrainingRow row;
    const char* message;
  };
  const std::vector<Case> cases = {
      {"no label", Row({1, 2}, {kNone, kNone}, 12),
       "line 12 (row 1): none of its 2 tokens is labelled (at position 1 or later), at least 1"},
      {"a label that nothing predicts", Row({1, 2}, {1, kNone}), "row 1: none of its 2 tokens"},
      {"empty row", Row({}, {}, 3), "line 3 (row 1): none of its 0 tokens"},
      {"longer than the recipe's limit", Long(9), "row 1: 9 tokens, at most 8 (recipe.max_row"},
      {"longer than the context", Long(17), "row 1: 17 tokens, at most 16 (the base's context)"},
      {"id above", Row({1, 10}, {kNone, 2}), "row 1: ids[1] is 10, the vocabulary has 10 ids"},
      {"id below", Row({-1, 2}, {kNone, 2}), "row 1: ids[0] is -1, the vocabulary has 10 ids"},
      {"label above", Row({1, 2}, {kNone, 11}), "row 1: labels[1] is 11, the vocabulary has 10"},
      {"label below", Row({1, 2}, {kNone, -99}), "row 1: labels[1] is -99"},
      {"unequal lengths", Row({1, 2}, {2}), "row 1: 2 ids and 1 labels"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    EXPECT_THAT(LintTrainingRows({Good(), c.row}, Limits()),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(c.message)));
  }
  EXPECT_THAT(LintTrainingRows({Good()}, Limits()), IsOk());
}

TEST(LintTrainingRows, RefusesAnEmptyDataSet) {
  EXPECT_THAT(LintTrainingRows({}, Limits()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("0 rows, at least 1")));
}

TEST(LintTrainingRows, NamesFiveRowsAndCountsTheOthers) {
  const std::vector<TrainingRow> rows(8, Row({1, 2}, {kNone, kNone}));
  EXPECT_THAT(LintTrainingRows(rows, Limits()),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("row 0:"), HasSubstr("row 4:"), Not(HasSubstr("row 5:")),
                             HasSubstr("and 3 more"))));
}

TEST(LintTrainingRows, RefusesDataThatNeverTeachesToStop) {
  const TrainingRow open = Row({1, 2, 3}, {kNone, 2, 3}, 4);
  // The end stands in the row, but is not labelled.
  const TrainingRow unlabelled_end = Row({1, 2, kEnd}, {kNone, 2, kNone}, 5);
  EXPECT_THAT(LintTrainingRows({open, unlabelled_end}, Limits()),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("0 of 2 rows label an end of turn (id 9), at least 1"),
                             HasSubstr("line 4 (row 0), line 5 (row 1)"))));
  EXPECT_THAT(LintTrainingRows({open, unlabelled_end, Good()}, Limits()), IsOk());
  TrainingRow replay = Good();
  replay.replay = true;
  EXPECT_THAT(LintTrainingRows({open, replay}, Limits()),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("0 of 1 rows")));
  LintLimits unknown = Limits();
  unknown.end_ids.clear();
  EXPECT_THAT(LintTrainingRows({open}, unknown), IsOk());
}

TEST(LintTrainingRows, LongRowsMayBeCutUpToTheStatedShare) {
  std::vector<TrainingRow> rows = {Good(1), Good(2), Good(3), Long(20)};
  LintLimits limits = Limits();
  limits.max_cut_share = 0.2;
  EXPECT_THAT(LintTrainingRows(rows, limits),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       AllOf(HasSubstr("1 of 4 rows (25 %) would be cut at 8 tokens, at most 20 %"),
                             HasSubstr("row 3: 20 tokens"))));
  limits.max_cut_share = 0.25;
  ASSERT_THAT(LintTrainingRows(rows, limits), IsOk());
  EXPECT_THAT(TrainingRowWarnings(rows, limits),
              ElementsAre(HasSubstr("1 of 4 rows are cut at 8 tokens: row 3")));
  EXPECT_EQ(CutLongRows(rows, limits), 1);
  EXPECT_EQ(rows[3].ids.size(), 8u);
  EXPECT_EQ(rows[3].labels.size(), 8u);
  EXPECT_THAT(LintTrainingRows(rows, Limits()), IsOk());
}

TEST(LintTrainingRows, ARowWhoseLabelsWouldBeCutAwayIsRefused) {
  TrainingRow row = Long(20);
  row.labels.assign(20, kNone);
  row.labels[19] = kEnd;
  LintLimits limits = Limits();
  limits.max_cut_share = 1;
  EXPECT_THAT(LintTrainingRows({Good(), row}, limits),
              StatusIs(absl::StatusCode::kInvalidArgument,
                       HasSubstr("row 1: none of the first 8 of its 20 tokens is labelled")));
}

TEST(LintTrainingRows, ACounterpartIsHeldAgainstTheSameLimits) {
  TrainingRow row = Good();
  row.counterpart = {.ids = {1, 2, 3}, .labels = {kNone, 2, 3}};
  EXPECT_THAT(LintTrainingRows({row}, Limits()), IsOk());
  row.counterpart = {.ids = {1, 2}, .labels = {kNone, kNone}};
  EXPECT_THAT(
      LintTrainingRows({row}, Limits()),
      StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("row 0: none of its 2 tokens")));
  row.counterpart = {.ids = std::vector<TokenId>(9, 3), .labels = std::vector<TokenId>(9, 3)};
  EXPECT_THAT(LintTrainingRows({row}, Limits()), StatusIs(absl::StatusCode::kInvalidArgument,
                                                          HasSubstr("row 0: 9 tokens, at most 8")));
}

TEST(TrainingRowWarnings, NameRepeatsAndOpenRows) {
  EXPECT_THAT(TrainingRowWarnings({Good(1), Good(2)}, Limits()), IsEmpty());
  TrainingRow again = Good(1);
  again.line = 7;
  const TrainingRow other_labels = Row({1, 2, kEnd}, {kNone, kNone, kEnd});
  EXPECT_THAT(TrainingRowWarnings({Good(1), Good(2), again, Good(1), other_labels}, Limits()),
              ElementsAre("2 of 5 rows are repeats: line 7 (row 2) repeats row 0; row 3 repeats "
                          "row 0"));
  EXPECT_THAT(TrainingRowWarnings({Good(), Row({1, 2}, {kNone, 2})}, Limits()),
              ElementsAre("1 of 2 rows label no end of turn (id 9): row 1"));
}

}  // namespace
}  // namespace evolora
