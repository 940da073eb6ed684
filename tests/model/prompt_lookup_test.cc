#include "prompt_lookup.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace evolora {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

TEST(GuessNext, TakesWhatFollowedTheSameThreeIdsLast) {
  EXPECT_THAT(GuessNext({1, 2, 3, 7, 1, 2, 3, 8, 9, 1, 2, 3}, 2), ElementsAre(8, 9));
  EXPECT_THAT(GuessNext({1, 2, 3, 8, 1, 2, 3}, 7), ElementsAre(8, 1, 2, 3));
}

TEST(GuessNext, FallsBackToTwoIds) {
  EXPECT_THAT(GuessNext({5, 2, 3, 8, 9, 4, 2, 3}, 2), ElementsAre(8, 9));
}

TEST(GuessNext, ARunOfOneIdGoesOn) { EXPECT_THAT(GuessNext({4, 4, 4, 4}, 3), ElementsAre(4)); }

TEST(GuessNext, NoneWithoutAnEarlierPlaceOrRoom) {
  EXPECT_THAT(GuessNext({}, 3), IsEmpty());
  EXPECT_THAT(GuessNext({1}, 3), IsEmpty());
  EXPECT_THAT(GuessNext({1, 2, 3, 4}, 3), IsEmpty());
  EXPECT_THAT(GuessNext({1, 2, 3, 1, 2}, 0), IsEmpty());
}

}  // namespace
}  // namespace evolora
