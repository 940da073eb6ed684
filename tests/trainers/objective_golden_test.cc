// Whole runs of the objectives beside SFT against plain PyTorch: tests/golden/objectives, written
// by tools/golden/make_objective_golden.py.
#include <cmath>
#include <string>
#include <vector>

#include "support/fake_clock.h"
#include "trainers/golden_run.h"

namespace evolora {
namespace {

using ::evolora::testing::ExpectSameAdapter;
using ::evolora::testing::ExpectSameSteps;
using ::evolora::testing::FakeClock;
using ::evolora::testing::GoldenPath;
using ::evolora::testing::kSmallLoss;
using ::evolora::testing::MakeGoldenJob;
using ::evolora::testing::ReadAdapter;
using ::evolora::testing::ReadJson;
using ::evolora::testing::Recipes;

// Sums over the labels of a row in fp32 there.
constexpr double kFigureTolerance = 5e-5;

std::string Folder(const std::string& name) { return "objectives/" + name; }

void ExpectSameFigures(const std::vector<StepReport>& ours, const Json& expected) {
  for (size_t i = 0; i < ours.size(); ++i) {
    SCOPED_TRACE(i);
    const Json& figures = expected["figures"][i];
    // A run that starts at its reference has rewards of rounding: none is the larger one.
    const bool is_tie = std::abs(figures.value("reward_margin", 1.0)) < kFigureTolerance;
    for (const auto& [name, value] : figures.items()) {
      ASSERT_TRUE(ours[i].figures.contains(name)) << name;
      if (name == "reward_accuracy" && is_tie) continue;
      EXPECT_NEAR(ours[i].figures.at(name), value.get<double>(), kFigureTolerance) << name;
    }
  }
}

class ObjectiveGolden : public ::testing::TestWithParam<std::string> {};

TEST_P(ObjectiveGolden, FiftyStepsEqualPlainPyTorch) {
  const Json expected = ReadJson(GoldenPath(Folder(GetParam() + "/expected.json")));
  const std::string init = expected["init"];
  const LoraAdapter start = ReadAdapter(init);
  const LoraAdapter theirs = ReadAdapter(Folder(GetParam()));
  for (const Json& recipe : Recipes(expected)) {
    SCOPED_TRACE(DisplayJson(recipe));
    FakeClock clock;
    const TrainingJob job = MakeGoldenJob(recipe, Folder(expected["rows"]), init);
    ASSERT_OK_AND_ASSIGN(const TrainedAdapter trained,
                         TrainLora(job, {}, PosixFileSystem(), clock, {}));
    EXPECT_EQ(trained.history.size(), 50u);
    ExpectSameSteps(trained.history, expected, kSmallLoss);
    ExpectSameFigures(trained.history, expected);
    ExpectSameAdapter(trained.adapter, theirs, start);
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, ObjectiveGolden,
                         ::testing::Values("distill", "distill_warm_from_init", "distill_top_k",
                                           "dpo", "dpo_smoothed_from_init", "dpo_base_reference",
                                           "policy_grpo", "policy_cispo", "policy_from_init",
                                           "policy_unscaled"),
                         [](const auto& param) { return param.param; });

}  // namespace
}  // namespace evolora
