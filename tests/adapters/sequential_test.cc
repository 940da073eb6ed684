#include "evolora/adapters/sequential.h"

#include <cmath>
#include <vector>

#include "evolora/core/random.h"
#include "gtest/gtest.h"

namespace evolora {
namespace {

// The definition in sequential.h, value by value and without logarithms.
double CapitalByDefinition(const std::vector<int>& values, double m) {
  double capital = 0;
  for (int k = 1; k <= 32; ++k) {
    const double bet = k / 32.0;
    double product = 0.75 / 32 + (k == 32 ? 0.25 : 0);
    for (const int x : values) product *= 1 + bet * (x - m) / (1 + m);
    capital += product;
  }
  return capital;
}

std::vector<int> ValuesOf(const TernaryCounts& counts) {
  std::vector<int> values(counts.plus, 1);
  values.insert(values.end(), counts.zero, 0);
  values.insert(values.end(), counts.minus, -1);
  return values;
}

// The greatest rejected m on a grid of width 1/2000; needs no monotonicity.
double LowerBoundOnGrid(const TernaryCounts& counts, double alpha) {
  const std::vector<int> values = ValuesOf(counts);
  double bound = -1;
  for (int i = -1999; i < 2000; ++i) {
    if (CapitalByDefinition(values, i / 2000.0) >= 1 / alpha) bound = i / 2000.0;
  }
  return bound;
}

const std::vector<TernaryCounts>& Samples() {
  static const std::vector<TernaryCounts> samples = {
      {.plus = 1},
      {.minus = 1},
      {.zero = 30},
      {.plus = 14, .zero = 114},
      {.plus = 3, .zero = 20, .minus = 3},
      {.plus = 30, .zero = 98, .minus = 10},
      {.plus = 7, .zero = 0, .minus = 40},
      {.plus = 60},
      {.minus = 60},
  };
  return samples;
}

TEST(MixtureBet, CapitalEqualsTheProductOfItsFactors) {
  for (const TernaryCounts& counts : Samples()) {
    for (const double m : {-0.9, -0.05, 0.0, 0.05, 0.6}) {
      const double expected = CapitalByDefinition(ValuesOf(counts), m);
      EXPECT_NEAR(std::exp(MixtureBet(m).LogCapital(counts)), expected, 1e-10 * expected);
    }
  }
}

TEST(MixtureBet, StartsWithCapitalOne) { EXPECT_NEAR(MixtureBet(0.2).LogCapital({}), 0, 1e-12); }

// E[f] = 1 at a distribution with mean exactly m, for every bet: the premise of Ville's inequality.
TEST(MixtureBet, ExpectedCapitalStaysOneUnderTheHypothesis) {
  for (const double m : {-0.3, 0.0, 0.05}) {
    const double minus = 0.35;
    const double plus = minus + m;
    const MixtureBet bet(m);
    const double expected = plus * std::exp(bet.LogCapital({.plus = 1})) +
                            (1 - plus - minus) * std::exp(bet.LogCapital({.zero = 1})) +
                            minus * std::exp(bet.LogCapital({.minus = 1}));
    EXPECT_NEAR(expected, 1, 1e-12) << m;
  }
}

TEST(MixtureBet, CapitalFallsInTheHypothesis) {
  for (const TernaryCounts& counts : Samples()) {
    double before = INFINITY;
    for (double m = -0.99; m < 1; m += 0.01) {
      const double now = MixtureBet(m).LogCapital(counts);
      EXPECT_LE(now, before + 1e-12);
      before = now;
    }
  }
}

TEST(MeanBounds, AgreeWithBruteForceInversion) {
  for (const TernaryCounts& counts : Samples()) {
    for (const double alpha : {0.01, 0.05, 0.2}) {
      const double grid = LowerBoundOnGrid(counts, alpha);
      const double bound = MeanLowerBound(counts, alpha);
      EXPECT_GE(bound, grid - 1e-9);
      EXPECT_LT(bound, grid + 1 / 2000.0);
      EXPECT_DOUBLE_EQ(MeanUpperBound(counts.Negated(), alpha), -bound);
    }
  }
}

TEST(MeanBounds, EncloseTheEstimateAndTightenWithData) {
  double width = 2;
  for (int64_t n = 10; n <= 10240; n *= 4) {
    const TernaryCounts counts{.plus = 2 * n, .zero = 7 * n, .minus = n};
    const double low = MeanLowerBound(counts, 0.05);
    const double high = MeanUpperBound(counts, 0.05);
    EXPECT_LT(low, 0.1);
    EXPECT_GT(high, 0.1);
    EXPECT_LT(high - low, width);
    width = high - low;
  }
  EXPECT_LT(width, 0.015);
}

TEST(MeanBounds, NoDataSaysNothing) {
  EXPECT_EQ(MeanLowerBound({}, 0.05), -1);
  EXPECT_EQ(MeanUpperBound({}, 0.05), 1);
}

// Rule of three: no event in n gives about ln(1/alpha)/n; the mixture costs at most ln 4 more.
TEST(MeanBounds, ReachTheRuleOfThreeWhenNothingIsLost) {
  for (const int64_t n : {50, 104, 500, 5000}) {
    const double bound = MeanUpperBound({.zero = n}, 0.05);
    const double rule = std::log(20.0) / static_cast<double>(n);
    EXPECT_GT(bound, 0.97 * rule);
    EXPECT_LT(bound, (std::log(20.0) + std::log(4.0)) / static_cast<double>(n));
  }
}

TEST(ZerosNeeded, IsTheFirstCountThatProves) {
  for (const double delta : {0.01, 0.05, 0.2}) {
    const int64_t n = ZerosNeeded(0.05, delta);
    EXPECT_LT(MeanUpperBound({.zero = n}, 0.05), delta);
    EXPECT_GE(MeanUpperBound({.zero = n - 1}, 0.05), delta);
  }
  EXPECT_EQ(ZerosNeeded(0.05, 0.05), 74);
}

// Both bounds at once, looked at after every value: each misses the mean in at most alpha of the
// runs.
TEST(MeanBounds, HoldAtAllTimesTogether) {
#ifdef __SANITIZE_ADDRESS__
  constexpr int kRuns = 100;  // sanitizers look at memory, not at rates
#else
  constexpr int kRuns = 1000;
#endif
  constexpr int kLength = 200;
  constexpr double kAlpha = 0.1;
  for (const auto& [plus, minus] :
       std::vector<std::pair<double, double>>{{0.1, 0.02}, {0.3, 0.3}, {0.0, 0.05}, {0.7, 0.1}}) {
    const double mean = plus - minus;
    const MixtureBet above(mean);
    const MixtureBet below(-mean);
    Random random(DeriveSeed(7, "coverage"));
    int misses_low = 0;
    int misses_high = 0;
    for (int run = 0; run < kRuns; ++run) {
      TernaryCounts counts;
      bool low = false;
      bool high = false;
      for (int t = 0; t < kLength; ++t) {
        const double u = random.NextDouble();
        (u < plus ? counts.plus : u < plus + minus ? counts.minus : counts.zero) += 1;
        low |= above.LogCapital(counts) >= -std::log(kAlpha);
        high |= below.LogCapital(counts.Negated()) >= -std::log(kAlpha);
      }
      misses_low += low;
      misses_high += high;
    }
    EXPECT_LE(misses_low, kAlpha * kRuns) << plus << " " << minus;
    EXPECT_LE(misses_high, kAlpha * kRuns) << plus << " " << minus;
  }
}

}  // namespace
}  // namespace evolora
