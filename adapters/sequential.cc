#include "evolora/adapters/sequential.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "evolora/core/check.h"

namespace evolora {
namespace {

constexpr double kAllInWeight = 0.25;
constexpr double kRounding = 1e9;

// count * log_factor, with 0 * -infinity = 0: a factor that never came changes nothing.
double Times(int64_t count, double log_factor) {
  return count == 0 ? 0 : static_cast<double>(count) * log_factor;
}

}  // namespace

MixtureBet::MixtureBet(double m) {
  EVOLORA_CHECK(m > -1 && m < 1, "MixtureBet: m must lie inside (-1, 1)");
  for (int k = 0; k < kNumBets; ++k) {
    const double bet = static_cast<double>(k + 1) / kNumBets;
    const double weight = (1 - kAllInWeight) / kNumBets + (k + 1 == kNumBets ? kAllInWeight : 0);
    // x = -1 gives 1 - bet whatever m; written so, it is exactly 0 for the all-in bet.
    bets_[k] = {.weight = std::log(weight),
                .plus = std::log1p(bet * (1 - m) / (1 + m)),
                .zero = std::log1p(-bet * m / (1 + m)),
                .minus = bet == 1 ? -std::numeric_limits<double>::infinity() : std::log1p(-bet)};
  }
}

double MixtureBet::LogCapital(const TernaryCounts& counts) const {
  std::array<double, kNumBets> logs;
  for (int k = 0; k < kNumBets; ++k) {
    const LogFactors& bet = bets_[k];
    logs[k] = bet.weight + Times(counts.plus, bet.plus) + Times(counts.zero, bet.zero) +
              Times(counts.minus, bet.minus);
  }
  const double greatest = *std::max_element(logs.begin(), logs.end());
  double sum = 0;
  for (const double value : logs) {
    // Parts below 1e-19 of the greatest change no bit of the sum.
    if (value > greatest - 44) sum += std::exp(value - greatest);
  }
  return greatest + std::log(sum);
}

double MeanLowerBound(const TernaryCounts& counts, double alpha) {
  EVOLORA_CHECK(alpha > 0 && alpha < 1, "alpha must lie inside (0, 1)");
  EVOLORA_CHECK(counts.plus >= 0 && counts.zero >= 0 && counts.minus >= 0, "negative count");
  const double threshold = -std::log(alpha);
  double rejected = -1;  // every m up to here is rejected (or there is none)
  double kept = 1;       // the capital against m = 1 never grows
  while (kept - rejected > 1e-12) {
    const double middle = rejected + (kept - rejected) / 2;
    (MixtureBet(middle).LogCapital(counts) >= threshold ? rejected : kept) = middle;
  }
  return std::max(-1.0, std::floor(rejected * kRounding) / kRounding);
}

double MeanUpperBound(const TernaryCounts& counts, double alpha) {
  return -MeanLowerBound(counts.Negated(), alpha);
}

int64_t ZerosNeeded(double alpha, double delta) {
  EVOLORA_CHECK(alpha > 0 && alpha < 1 && delta > 0 && delta < 1, "alpha and delta in (0, 1)");
  const MixtureBet bet(-delta);
  const double threshold = -std::log(alpha);
  const auto proves = [&](int64_t n) { return bet.LogCapital({.zero = n}) >= threshold; };
  int64_t high = 1;
  while (!proves(high)) high *= 2;
  int64_t low = high / 2;  // does not prove (0 pairs prove nothing)
  while (high - low > 1) {
    const int64_t middle = low + (high - low) / 2;
    (proves(middle) ? high : low) = middle;
  }
  return high;
}

}  // namespace evolora
