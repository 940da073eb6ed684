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

}  // namespace
}  // namespace evolora
