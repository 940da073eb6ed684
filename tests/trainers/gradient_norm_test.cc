#include "gradient_norm.h"

#include <cmath>
#include <limits>
#include <vector>

#include "ATen/Parallel.h"
#include "evolora/core/random.h"
#include "gtest/gtest.h"

namespace evolora {
namespace {

TEST(GradientNorm, KeepsTheSmallTermsOfMillions) {
  // One value whose square is 2^24 times theirs: a sum in fp32 would not see them behind it.
  std::vector<float> gradient(5'000'003, 1.0f);
  gradient[0] = 4096;
  const double expected = std::sqrt(4096.0 * 4096.0 + 5'000'002.0);
  EXPECT_NEAR(GradientNorm(gradient.data(), 5'000'003), expected, 1e-12 * expected);
}

TEST(GradientNorm, IsTheSameBitsOnAnyNumberOfThreads) {
  Random random(3);
  std::vector<float> gradient(300'001);
  for (float& value : gradient) value = static_cast<float>(random.NextDouble() - 0.5);
  const int threads = at::get_num_threads();
  at::set_num_threads(1);
  const double one = GradientNorm(gradient.data(), 300'001);
  at::set_num_threads(3);
  EXPECT_EQ(GradientNorm(gradient.data(), 300'001), one);
  at::set_num_threads(threads);
}

TEST(GradientNorm, OfNothingIsZeroAndNotANumberStays) {
  EXPECT_EQ(GradientNorm(nullptr, 0), 0);
  std::vector<float> gradient(40, 1.0f);
  gradient[38] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_TRUE(std::isnan(GradientNorm(gradient.data(), 40)));
}

}  // namespace
}  // namespace evolora
