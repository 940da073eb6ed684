#include "evolora/trainers/leak_check.h"

#include <string>
#include <vector>

#include "support/status_matchers.h"

namespace evolora {
namespace {

using ::evolora::testing::IsOk;
using ::evolora::testing::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

const std::vector<std::string> kProtected = {
    "Which family does Epaspidoceras belong to?",
    "Find the area of a triangle with a base of 10 units and height of 5 units."};

TEST(LeakCheck, DifferentTextsPass) {
  EXPECT_THAT(CheckNoLeak({"Which river flows through Vienna?", "What is 2 + 2?"}, kProtected),
              IsOk());
  EXPECT_THAT(CheckNoLeak({}, kProtected), IsOk());
  EXPECT_THAT(CheckNoLeak({"anything"}, {}), IsOk());
}

TEST(LeakCheck, SameTextInOtherCaseAndPunctuationIsRefusedByNumber) {
  EXPECT_THAT(CheckNoLeak({"fine", "which FAMILY does epaspidoceras, belong to"}, kProtected),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       AllOf(HasSubstr("training text 1"), HasSubstr("protected text 0"))));
}

TEST(LeakCheck, NearDuplicateIsRefusedAndLooseLikenessIsNot) {
  const std::string near =
      "Please find the area of a triangle with a base of 10 units and height of 5 units.";
  EXPECT_THAT(CheckNoLeak({near}, kProtected),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("protected text 1")));
  EXPECT_THAT(CheckNoLeak({"Find the area of a circle with a radius of 3 units."}, kProtected),
              IsOk());
}

TEST(LeakCheck, ShortTextsAreComparedWhole) {
  EXPECT_THAT(CheckNoLeak({"Who?"}, {"who"}),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("near-duplicate")));
  EXPECT_THAT(CheckNoLeak({"Who are"}, {"who"}), IsOk());
}

TEST(LeakCheck, EveryLeakIsNamedUpToFiveAndTheOthersAreCounted) {
  const std::vector<std::string> texts(7, "Which family does Epaspidoceras belong to?");
  EXPECT_THAT(CheckNoLeak(texts, kProtected),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       AllOf(HasSubstr("training text 0"), HasSubstr("training text 4"),
                             Not(HasSubstr("training text 5")), HasSubstr("and 2 more"))));
}

TEST(LeakCheck, RowsAreNamedByTheirLinesReplayedOnesToo) {
  std::vector<TrainingRow> rows = {{.ids = {1}, .labels = {1}},
                                   {.ids = {1},
                                    .labels = {1},
                                    .replay = true,
                                    .text = "which family does Epaspidoceras belong to",
                                    .line = 8}};
  EXPECT_THAT(CheckRowsLeakNothing(rows, kProtected),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       AllOf(HasSubstr("line 8 (row 1)"), HasSubstr("protected text 0"),
                             HasSubstr("1 of 3-grams shared, less than 0.9"))));
  EXPECT_EQ(CountRowsWithoutText(rows), 1);
  rows.pop_back();
  EXPECT_THAT(CheckRowsLeakNothing(rows, kProtected), IsOk());
}

}  // namespace
}  // namespace evolora
