#include "evolora/core/interval.h"

#include <algorithm>
#include <cmath>

#include "evolora/core/check.h"

namespace evolora {
namespace {

constexpr double kSqrt2 = 1.4142135623730951;
constexpr double kSqrt2Pi = 2.5066282746310002;

double TwoSidedZ(double confidence) {
  EVOLORA_CHECK(confidence > 0 && confidence < 1, "confidence must lie in (0, 1)");
  return NormalQuantile(0.5 + confidence / 2);
}

// Quantile of the lower half, p <= 0.5: a rational start (Abramowitz and Stegun 26.2.23, error
// below 4.5e-4), then Halley steps on the exact distribution function, which converge cubically.
double LowerQuantile(double p) {
  const double t = std::sqrt(-2 * std::log(p));
  const double above = 2.515517 + t * (0.802853 + t * 0.010328);
  const double below = 1 + t * (1.432788 + t * (0.189269 + t * 0.001308));
  double x = above / below - t;
  for (int step = 0; step < 3; ++step) {
    const double error = 0.5 * std::erfc(-x / kSqrt2) - p;
    const double newton = error * kSqrt2Pi * std::exp(x * x / 2);
    x -= newton / (1 + x * newton / 2);
  }
  return x;
}

// Correlation of the two outcomes with Newcombe's continuity correction (his method 10).
double CorrectedPhi(double both, double only_after, double only_before, double none) {
  const double n = both + only_after + only_before + none;
  const double margins =
      (both + only_after) * (only_before + none) * (both + only_before) * (only_after + none);
  if (margins == 0) return 0;
  const double product = both * none - only_after * only_before;
  const double corrected = product > 0 ? std::max(product - n / 2, 0.0) : product;
  return corrected / std::sqrt(margins);
}

}  // namespace

double NormalQuantile(double p) {
  EVOLORA_CHECK(p > 0 && p < 1, "a quantile needs 0 < p < 1");
  return p <= 0.5 ? LowerQuantile(p) : -LowerQuantile(1 - p);
}

Interval WilsonInterval(int64_t successes, int64_t n, double confidence) {
  EVOLORA_CHECK(successes >= 0 && successes <= n, "successes must lie in [0, n]");
  const double z = TwoSidedZ(confidence);
  if (n == 0) return {0, 1};
  const double num = static_cast<double>(n);
  const double p = static_cast<double>(successes) / num;
  const double scale = 1 + z * z / num;
  const double center = (p + z * z / (2 * num)) / scale;
  const double half = z * std::sqrt(p * (1 - p) / num + z * z / (4 * num * num)) / scale;
  return {successes == 0 ? 0 : std::max(center - half, 0.0),
          successes == n ? 1 : std::min(center + half, 1.0)};
}

Interval PairedDifferenceInterval(int64_t both, int64_t only_after, int64_t only_before,
                                  int64_t none, double confidence) {
  EVOLORA_CHECK(both >= 0 && only_after >= 0 && only_before >= 0 && none >= 0,
                "counts of pairs must not be negative");
  const int64_t n = both + only_after + only_before + none;
  if (n == 0) return {-1, 1};
  const Interval after = WilsonInterval(both + only_after, n, confidence);
  const Interval before = WilsonInterval(both + only_before, n, confidence);
  const double num = static_cast<double>(n);
  const double p_after = static_cast<double>(both + only_after) / num;
  const double p_before = static_cast<double>(both + only_before) / num;
  const double phi = CorrectedPhi(static_cast<double>(both), static_cast<double>(only_after),
                                  static_cast<double>(only_before), static_cast<double>(none));
  const auto distance = [phi](double a, double b) {
    return std::sqrt(std::max(a * a - 2 * phi * a * b + b * b, 0.0));
  };
  const double theta = p_after - p_before;
  return {std::max(theta - distance(p_after - after.low, before.high - p_before), -1.0),
          std::min(theta + distance(after.high - p_after, p_before - before.low), 1.0)};
}

}  // namespace evolora
