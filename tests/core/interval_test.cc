#include "evolora/core/interval.h"

#include <vector>

#include "gtest/gtest.h"

namespace evolora {
namespace {

TEST(NormalQuantile, EqualsKnownValues) {
  // 20-digit values by mpmath, rounded.
  const std::vector<std::pair<double, double>> rows = {{1e-10, -6.36134090240405620},
                                                       {0.001, -3.09023230616781354},
                                                       {0.025, -1.95996398454005424},
                                                       {0.3, -0.524400512708040784},
                                                       {0.5, 0},
                                                       {0.975, 1.95996398454005424},
                                                       {0.995, 2.57582930354890076}};
  for (const auto& [p, expected] : rows) EXPECT_NEAR(NormalQuantile(p), expected, 1e-12) << p;
}

TEST(NormalQuantile, ReachesFarIntoTheTail) {
  EXPECT_NEAR(NormalQuantile(1e-300), -37.0470962993612, 1e-9);
}

TEST(NormalQuantileDeathTest, RefusesProbabilitiesOutsideTheOpenInterval) {
  EXPECT_DEATH(NormalQuantile(0), "0 < p < 1");
  EXPECT_DEATH(NormalQuantile(1), "0 < p < 1");
}

TEST(WilsonInterval, EqualsPublishedExamples) {
  // Newcombe 1998, Statist. Med. 17:857, table I; the rest computed apart in Python.
  struct Row {
    int64_t successes, n;
    double low, high;
  };
  const std::vector<Row> rows = {{81, 263, 0.2552885198782743, 0.3662095769828001},
                                 {15, 148, 0.0623863995307363, 0.160487241723308},
                                 {5, 10, 0.23659309051256405, 0.763406909487436},
                                 {0, 10, 0, 0.27753279986288915},
                                 {10, 10, 0.7224672001371109, 1}};
  for (const Row& row : rows) {
    SCOPED_TRACE(row.successes);
    const Interval interval = WilsonInterval(row.successes, row.n);
    EXPECT_NEAR(interval.low, row.low, 1e-12);
    EXPECT_NEAR(interval.high, row.high, 1e-12);
  }
}

TEST(WilsonInterval, KnowsNothingWithoutTrials) {
  EXPECT_EQ(WilsonInterval(0, 0).low, 0);
  EXPECT_EQ(WilsonInterval(0, 0).high, 1);
}

TEST(WilsonInterval, GrowsWithConfidence) {
  EXPECT_LT(WilsonInterval(5, 10, 0.99).low, WilsonInterval(5, 10, 0.95).low);
  EXPECT_GT(WilsonInterval(5, 10, 0.99).high, WilsonInterval(5, 10, 0.95).high);
}

TEST(WilsonIntervalDeathTest, RefusesMoreSuccessesThanTrials) {
  EXPECT_DEATH(WilsonInterval(3, 2), "successes");
}

TEST(PairedDifferenceInterval, EqualsMethodTen) {
  struct Row {
    int64_t both, only_after, only_before, none;
    double low, high;
  };
  const std::vector<Row> rows = {{20, 12, 2, 16, 0.05615642484174832, 0.3292069954001405},
                                 {36, 14, 0, 0, 0.1528395178558574, 0.4166512369595655},
                                 {1, 97, 0, 2, 0.9030656974166016, 0.9866723759475092},
                                 {10, 5, 9, 10, -0.31821415841797435, 0.09864358440855345},
                                 {0, 0, 0, 10, -0.27753279986288915, 0.27753279986288915}};
  for (const Row& row : rows) {
    SCOPED_TRACE(row.only_after);
    const Interval interval =
        PairedDifferenceInterval(row.both, row.only_after, row.only_before, row.none);
    EXPECT_NEAR(interval.low, row.low, 1e-12);
    EXPECT_NEAR(interval.high, row.high, 1e-12);
  }
}

TEST(PairedDifferenceInterval, IsMirroredWhenBeforeAndAfterSwap) {
  const Interval forward = PairedDifferenceInterval(7, 5, 2, 6, 0.9);
  const Interval backward = PairedDifferenceInterval(7, 2, 5, 6, 0.9);
  EXPECT_NEAR(forward.low, -backward.high, 1e-12);
  EXPECT_NEAR(forward.high, -backward.low, 1e-12);
}

TEST(PairedDifferenceInterval, KnowsNothingWithoutPairs) {
  EXPECT_EQ(PairedDifferenceInterval(0, 0, 0, 0).low, -1);
  EXPECT_EQ(PairedDifferenceInterval(0, 0, 0, 0).high, 1);
}

}  // namespace
}  // namespace evolora
