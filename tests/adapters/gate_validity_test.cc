// Monte-Carlo checks of the promises on error rates, with fixed seeds.
#include <vector>

#include "absl/strings/str_cat.h"
#include "evolora/adapters/gate.h"
#include "evolora/core/random.h"
#include "gtest/gtest.h"

namespace evolora {
namespace {

#ifdef __SANITIZE_ADDRESS__
constexpr int kRuns = 300;  // sanitizers look at memory, not at rates
#else
constexpr int kRuns = 2000;
#endif

struct Rates {
  double win = 0;
  double loss = 0;
};

std::vector<PairedOutcome> Draw(const char* prefix, const Rates& rates, int n, Random& random) {
  std::vector<PairedOutcome> out(n);
  for (int i = 0; i < n; ++i) {
    const double u = random.NextDouble();
    out[i].case_id = absl::StrCat(prefix, i);
    out[i].candidate_right = u < rates.win;
    out[i].champion_right = u >= rates.win && u < rates.win + rates.loss;
  }
  return out;
}

// Shares of pass and fail over kRuns candidates with these true rates.
struct Shares {
  double pass = 0;
  double fail = 0;
};

Shares Simulate(const Rates& query, int num_query, const Rates& anchor, int num_anchor) {
  Random random(DeriveSeed(2023, "gate validity"));
  Shares out;
  for (int run = 0; run < kRuns; ++run) {
    const GateVerdict verdict =
        *Judge(Draw("q", query, num_query, random), Draw("a", anchor, num_anchor, random), {}, {});
    out.pass += verdict.outcome == GateOutcome::kPass;
    out.fail += verdict.outcome == GateOutcome::kFail;
  }
  out.pass /= kRuns;
  out.fail /= kRuns;
  return out;
}

// Judge looks after every pair, so these runs peek all the time.
TEST(GateValidity, ANullCandidatePassesAtMostAlphaOfTheTime) {
  for (const double flips : {0.1, 0.4}) {
    EXPECT_LE(Simulate({flips, flips}, 150, {}, 80).pass, 0.05) << flips;
  }
}

TEST(GateValidity, ACandidateThatLosesDeltaPassesAtMostAlphaOfTheTime) {
  EXPECT_LE(Simulate({0.5, 0}, 30, {0, 0.05}, 150).pass, 0.05);
  EXPECT_LE(Simulate({0.5, 0}, 30, {0.05, 0.10}, 150).pass, 0.05);
}

TEST(GateValidity, AHarmlessUsefulCandidateFailsAtMostAlphaOfTheTime) {
  EXPECT_LE(Simulate({0.06, 0.05}, 150, {0.02, 0.02}, 150).fail, 0.05);
}

TEST(GateValidity, AUsefulCandidatePasses) {
  EXPECT_GE(Simulate({0.20, 0.02}, 128, {}, 104).pass, 0.95);
  EXPECT_GE(Simulate({0.11, 0.00}, 128, {}, 104).pass, 0.95);
}

TEST(GateValidity, AHarmfulCandidateFails) {
  const Shares shares = Simulate({0.3, 0}, 60, {0, 0.25}, 180);
  EXPECT_GE(shares.fail, 0.95);
  EXPECT_LE(shares.pass, 0.001);
}

}  // namespace
}  // namespace evolora
