#pragma once

#include <cstdint>

namespace evolora {

struct Interval {
  double low = 0;
  double high = 0;
};

// Wilson score interval of a proportion (Wilson 1927). n = 0 gives [0, 1].
// REQUIRES: 0 <= successes <= n, 0 < confidence < 1.
Interval WilsonInterval(int64_t successes, int64_t n, double confidence = 0.95);

// Newcombe's square-and-add interval (method 10 of Newcombe 1998, Statist. Med. 17:2635) of a
// paired difference p_after - p_before. Counts of pairs: both right, only after right, only before
// right, none. A fixed-sample interval for reports; the gate uses always-valid bounds instead.
Interval PairedDifferenceInterval(int64_t both, int64_t only_after, int64_t only_before,
                                  int64_t none, double confidence = 0.95);

// Quantile of the standard normal distribution. REQUIRES: 0 < p < 1. Absolute error < 1e-9.
double NormalQuantile(double p);

}  // namespace evolora
