#include "evolora/core/random.h"

#include <algorithm>
#include <array>
#include <numeric>

#include "gtest/gtest.h"

namespace evolora {
namespace {

TEST(Random, GivesTheReferenceStreamOfSplitMix64) {
  Random random(1234567);
  for (const uint64_t expected : {6457827717110365317u, 3203168211198807973u, 9817491932198370423u,
                                  4593380528125082431u, 16408922859458223821u}) {
    EXPECT_EQ(random.NextU64(), expected);
  }
}

TEST(Random, DoublesLieInTheUnitIntervalWithMeanOneHalf) {
  Random random(7);
  double sum = 0;
  for (int i = 0; i < 100000; ++i) {
    const double value = random.NextDouble();
    ASSERT_GE(value, 0);
    ASSERT_LT(value, 1);
    sum += value;
  }
  EXPECT_NEAR(sum / 100000, 0.5, 0.005);  // 5 standard errors
}

TEST(Random, NextBelowIsUniform) {
  Random random(3);
  std::array<int, 6> counts{};
  for (int i = 0; i < 60000; ++i) ++counts[random.NextBelow(6)];
  for (const int count : counts) EXPECT_NEAR(count, 10000, 500);  // 5 standard deviations
}

TEST(Random, NextBelowHasNoModuloBiasAtHugeBounds) {
  // With bound 3/4 of 2^64 a plain modulo would put half of all values into the lowest third.
  Random random(5);
  const uint64_t bound = uint64_t{3} << 62;
  int low = 0;
  for (int i = 0; i < 30000; ++i) low += random.NextBelow(bound) < bound / 3 ? 1 : 0;
  EXPECT_NEAR(low, 10000, 410);
}

TEST(RandomDeathTest, NextBelowRefusesZero) { EXPECT_DEATH(Random(1).NextBelow(0), "positive"); }

TEST(Random, PermutationHoldsEachIndexOnceAndDependsOnTheSeedOnly) {
  const std::vector<int64_t> order = Random(11).Permutation(100);
  EXPECT_EQ(order, Random(11).Permutation(100));
  EXPECT_NE(order, Random(12).Permutation(100));
  std::vector<int64_t> sorted = order;
  std::sort(sorted.begin(), sorted.end());
  std::vector<int64_t> expected(100);
  std::iota(expected.begin(), expected.end(), 0);
  EXPECT_EQ(sorted, expected);
  EXPECT_TRUE(Random(1).Permutation(0).empty());
}

TEST(Random, PermutationOfThreeReachesAllSixOrdersEquallyOften) {
  Random random(17);
  std::array<int, 27> counts{};
  for (int i = 0; i < 6000; ++i) {
    const std::vector<int64_t> order = random.Permutation(3);
    ++counts[static_cast<size_t>(order[0] * 9 + order[1] * 3 + order[2])];
  }
  EXPECT_EQ(std::count(counts.begin(), counts.end(), 0), 21);
  for (const int count : counts) {
    if (count > 0) {
      EXPECT_NEAR(count, 1000, 150);
    }
  }
}

TEST(DeriveSeed, IsFixedForEverAndDiffersByNameAndSeed) {
  // First 8 bytes of SHA-256("42/train"): recorded runs depend on it.
  EXPECT_EQ(DeriveSeed(42, "train"), 14758786579849350003u);
  EXPECT_NE(DeriveSeed(42, "train"), DeriveSeed(42, "probe"));
  EXPECT_NE(DeriveSeed(42, "train"), DeriveSeed(43, "train"));
}

}  // namespace
}  // namespace evolora
