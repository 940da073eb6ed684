#pragma once

#include <array>
#include <cstdint>

namespace evolora {

// How often each value occurred in a sequence over {-1, 0, +1}.
struct TernaryCounts {
  int64_t plus = 0;
  int64_t zero = 0;
  int64_t minus = 0;
  int64_t total() const { return plus + zero + minus; }
  TernaryCounts Negated() const { return {.plus = minus, .zero = zero, .minus = plus}; }
  friend bool operator==(const TernaryCounts&, const TernaryCounts&) = default;
};

// A bettor against the hypothesis H(m): E[x_t | x_1 .. x_(t-1)] <= m at every t, for x in {-1, 0,
// +1}.
//
//   factor of a bet c in (0, 1]     f_c(x) = 1 + c (x - m) / (1 + m)   >= 0 for x >= -1
//   capital after t values          K_t(m) = sum over c of w_c * product over i <= t of f_c(x_i)
//   bets                            c = 1/32, 2/32 .. 1 with 3/4 of the weight in equal parts,
//                                   and another 1/4 on c = 1
//
// Under H(m) each product is a non-negative supermartingale that starts at 1 (E f_c <= 1), so their
// mixture is one too, and by Ville's inequality P(K_t ever reaches 1/alpha) <= alpha: one may look
// after every value and stop at will (Waudby-Smith & Ramdas 2023, "Estimating means of bounded
// random variables by betting", section 4; mixtures of constant bets).
// (x - m) / (1 + m) falls in m for every x, so K_t(m) falls in m whatever the data and the rejected
// m form an interval [-1, L_t]. The bets are fixed, so K_t depends on the counts only, not on their
// order. The part on c = 1 gives the rate of the rule of three, ln(1/alpha)/t, when no value is
// bad.
class MixtureBet {
 public:
  // REQUIRES: -1 < m < 1.
  explicit MixtureBet(double m);
  // ln K. -infinity when every bet is ruined (cannot happen: bets below 1 never are).
  double LogCapital(const TernaryCounts& counts) const;

 private:
  static constexpr int kNumBets = 32;
  struct LogFactors {
    double weight = 0;  // ln w_c
    double plus = 0;    // ln f_c(+1)
    double zero = 0;
    double minus = 0;  // -infinity for c = 1
  };
  std::array<LogFactors, kNumBets> bets_;
};

// One-sided, always-valid bounds of the mean: with probability at least 1 - alpha the mean lies
// above (below) the bound at ALL times at once, as long as every value has the same conditional
// mean given the past (independent cases drawn alike do). The two bounds are separate statements of
// level alpha. Accurate to 1e-9, rounded away from the estimate to 9 digits. n = 0 gives -1 and 1.
// REQUIRES: 0 < alpha < 1, counts >= 0.
double MeanLowerBound(const TernaryCounts& counts, double alpha);
double MeanUpperBound(const TernaryCounts& counts, double alpha);

// The smallest n for which n values 0 prove a mean below delta: MeanUpperBound({0, n, 0}) < delta.
// REQUIRES: 0 < alpha < 1, 0 < delta < 1.
int64_t ZerosNeeded(double alpha, double delta);

}  // namespace evolora
