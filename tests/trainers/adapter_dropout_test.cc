#include "adapter_dropout.h"

#include <cmath>
#include <cstdint>
#include <vector>

#include "gtest/gtest.h"

namespace evolora {
namespace {

std::vector<float> Factors(const AdapterDropout& dropout, uint64_t module_key, uint64_t token_key,
                           int64_t n) {
  std::vector<float> factors(static_cast<size_t>(n), 1.0f);
  dropout.Mask(module_key, token_key, n, factors.data(), factors.data());
  return factors;
}

TEST(AdapterDropout, KeepsTheExpectationAndDropsItsShare) {
  constexpr int64_t kWidth = 65, kTokens = 4000;
  for (const double rate : {0.05, 0.3, 0.9}) {
    SCOPED_TRACE(rate);
    const AdapterDropout dropout(rate, 3);
    const uint64_t module_key = dropout.ModuleKey("model.layers.0.mlp.up_proj");
    std::vector<double> sums(kWidth);
    int64_t dropped = 0;
    for (int64_t t = 0; t < kTokens; ++t) {
      const std::vector<float> f =
          Factors(dropout, module_key, DropoutTokenKey(1, t, 0, 7), kWidth);
      for (size_t i = 0; i < f.size(); ++i) {
        EXPECT_TRUE(f[i] == 0 || f[i] == static_cast<float>(1 / (1 - rate)));
        sums[i] += static_cast<double>(f[i]);
        dropped += f[i] == 0;
      }
    }
    const double deviation = std::sqrt(rate / (1 - rate) / kTokens);  // of a feature's mean
    for (const double sum : sums) EXPECT_NEAR(sum / kTokens, 1, 5 * deviation);
    EXPECT_NEAR(static_cast<double>(dropped) / (kWidth * kTokens), rate, 0.01);
  }
}

// Two streams that have nothing to do with each other agree on half of their features at rate 1/2.
TEST(AdapterDropout, EveryPartOfTheKeyGivesAnotherMask) {
  constexpr int64_t kWidth = 4096;
  const AdapterDropout dropout(0.5, 3), other_seed(0.5, 4);
  const uint64_t module_key = dropout.ModuleKey("a.q_proj");
  const std::vector<float> first =
      Factors(dropout, module_key, DropoutTokenKey(0, 1, 0, 2), kWidth);
  EXPECT_EQ(first, Factors(dropout, module_key, DropoutTokenKey(0, 1, 0, 2), kWidth));
  const std::vector<std::vector<float>> others = {
      Factors(dropout, module_key, DropoutTokenKey(1, 1, 0, 2), kWidth),
      Factors(dropout, module_key, DropoutTokenKey(0, 2, 0, 2), kWidth),
      Factors(dropout, module_key, DropoutTokenKey(0, 1, 1, 2), kWidth),
      Factors(dropout, module_key, DropoutTokenKey(0, 1, 0, 3), kWidth),
      Factors(dropout, module_key, DropoutTokenKey(0, 0, 1, 2), kWidth),
      Factors(dropout, dropout.ModuleKey("a.k_proj"), DropoutTokenKey(0, 1, 0, 2), kWidth),
      Factors(other_seed, other_seed.ModuleKey("a.q_proj"), DropoutTokenKey(0, 1, 0, 2), kWidth)};
  for (const std::vector<float>& other : others) {
    int64_t equal = 0;
    for (size_t i = 0; i < first.size(); ++i) equal += first[i] == other[i];
    EXPECT_NEAR(static_cast<double>(equal) / kWidth, 0.5, 0.04);
  }
}

TEST(AdapterDropout, NeighbouringFeaturesAreIndependent) {
  constexpr int64_t kWidth = 20001;
  const AdapterDropout dropout(0.5, 9);
  const std::vector<float> f =
      Factors(dropout, dropout.ModuleKey("m"), DropoutTokenKey(0, 0, 0, 0), kWidth);
  for (const size_t lag : {1, 2, 3, 64}) {
    int64_t equal = 0;
    for (size_t i = 0; i + lag < f.size(); ++i) equal += f[i] == f[i + lag];
    EXPECT_NEAR(static_cast<double>(equal) / static_cast<double>(f.size() - lag), 0.5, 0.02);
  }
}

TEST(AdapterDropout, AddMaskedAddsWhatMaskGives) {
  const AdapterDropout dropout(0.3, 1);
  const std::vector<float> x = {1, -2, 3, 4.5f, 5};
  std::vector<float> masked(5), sum = {10, 20, 30, 40, 50};
  dropout.Mask(7, 8, 5, x.data(), masked.data());
  dropout.AddMasked(7, 8, 5, x.data(), sum.data());
  for (size_t i = 0; i < 5; ++i) {
    EXPECT_EQ(sum[i], 10 * static_cast<float>(i + 1) + masked[i]);
  }
}

}  // namespace
}  // namespace evolora
