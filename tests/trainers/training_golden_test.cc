// Whole runs against transformers + PEFT: tests/golden/training, written by
// tools/golden/make_training_golden.py.
#include <cmath>
#include <string>
#include <vector>

#include "adapters/sample_adapter.h"
#include "evolora/adapters/peft.h"
#include "evolora/core/json.h"
#include "evolora/trainers/lora_trainer.h"
#include "row_order.h"
#include "support/fake_clock.h"
#include "support/status_matchers.h"
#include "support/temp_dir.h"

namespace evolora {
namespace {

using ::evolora::testing::FakeClock;
using ::evolora::testing::SourcePath;

// A formula that differs in its last fp32 digits stays below a tenth of this; a wrong
// normalisation, order, schedule or clipping is far above.
constexpr double kLossTolerance = 1e-5;      // relative, at every step
constexpr double kGradNormTolerance = 1e-5;  // relative, at every step
constexpr double kWeightCosine = 0.99999;    // of each matrix after the last step
constexpr double kChangeCosine = 0.99999;    // of each matrix less its start
// One rounding to bf16 is 2^-9 = 0.002 relative.
constexpr double kBf16Loss = 2e-3;
constexpr double kBf16ChangeCosine = 0.99;

std::string GoldenPath(const std::string& name) {
  return SourcePath("tests/golden/training/" + name);
}

Json ReadJson(const std::string& path) {
  const auto text = PosixFileSystem().ReadFile(path, 1 << 20);
  EXPECT_TRUE(text.ok()) << text.status();
  const auto json = ParseJson(*text);
  EXPECT_TRUE(json.ok()) << path << ": " << json.status();
  return *json;
}

LoraAdapter ReadAdapter(const std::string& name) {
  const auto peft = ReadPeftFolder(PosixFileSystem(), GoldenPath(name));
  EXPECT_TRUE(peft.ok()) << peft.status();
  return peft->adapter;
}

// `init`: folder of the adapter to start from, or null.
TrainingJob MakeJob(const Json& recipe, const Json& init) {
  const auto base = LoadBase(PosixFileSystem(), GoldenPath("model"));
  EXPECT_TRUE(base.ok()) << base.status();
  const auto data = PosixFileSystem().ReadFile(GoldenPath("rows.jsonl"), 1 << 20);
  EXPECT_TRUE(data.ok()) << data.status();
  const auto rows = ParseTrainingRows(*data, *base);
  EXPECT_TRUE(rows.ok()) << rows.status();
  const auto parsed = RecipeFromJson(recipe);
  EXPECT_TRUE(parsed.ok()) << parsed.status();
  TrainingJob job{.base = base->weights,
                  .base_name = "model",
                  .base_weights_fingerprint = base->weights_fingerprint,
                  .rows = *rows,
                  .recipe = *parsed};
  if (!init.is_null()) job.init = ReadAdapter(init);
  return job;
}

template <typename T>
double Cosine(const std::vector<T>& x, const std::vector<T>& y, const std::vector<T>& origin) {
  double xy = 0, xx = 0, yy = 0;
  for (size_t i = 0; i < x.size(); ++i) {
    const double dx = static_cast<double>(x[i]) - static_cast<double>(origin[i]);
    const double dy = static_cast<double>(y[i]) - static_cast<double>(origin[i]);
    xy += dx * dy;
    xx += dx * dx;
    yy += dy * dy;
  }
  return xy / std::sqrt(xx * yy);
}

void ExpectSameMatrix(const std::vector<float>& ours, const std::vector<float>& peft,
                      const std::vector<float>& start) {
  ASSERT_EQ(ours.size(), peft.size());
  EXPECT_GT(Cosine(ours, peft, std::vector<float>(ours.size())), kWeightCosine);
  EXPECT_GT(Cosine(ours, peft, start), kChangeCosine);
}

void ExpectSameAdapter(const LoraAdapter& ours, const LoraAdapter& peft, const LoraAdapter& start) {
  ASSERT_EQ(ours.modules.size(), peft.modules.size());
  for (size_t i = 0; i < peft.modules.size(); ++i) {
    SCOPED_TRACE(peft.modules[i].path);
    EXPECT_EQ(ours.modules[i].path, peft.modules[i].path);
    EXPECT_DOUBLE_EQ(ours.modules[i].scale, peft.modules[i].scale);
    ExpectSameMatrix(ours.modules[i].a, peft.modules[i].a, start.modules[i].a);
    ExpectSameMatrix(ours.modules[i].b, peft.modules[i].b, start.modules[i].b);
    if (peft.modules[i].magnitude.empty()) continue;
    ExpectSameMatrix(ours.modules[i].magnitude, peft.modules[i].magnitude,
                     start.modules[i].magnitude);
  }
  ASSERT_EQ(ours.saved_modules.size(), peft.saved_modules.size());
  for (size_t i = 0; i < peft.saved_modules.size(); ++i) {
    SCOPED_TRACE(peft.saved_modules[i].path);
    EXPECT_EQ(ours.saved_modules[i].path, peft.saved_modules[i].path);
    EXPECT_EQ(ours.saved_modules[i].shape, peft.saved_modules[i].shape);
    ExpectSameMatrix(ours.saved_modules[i].weight, peft.saved_modules[i].weight,
                     start.saved_modules[i].weight);
  }
}

// Of adapters that are the difference to a start of their own, whose singular vectors have free
// signs: what they add to the base's weights.
void ExpectSameUpdate(const LoraAdapter& ours, const LoraAdapter& peft) {
  ASSERT_EQ(ours.modules.size(), peft.modules.size());
  for (size_t i = 0; i < peft.modules.size(); ++i) {
    SCOPED_TRACE(peft.modules[i].path);
    EXPECT_EQ(ours.modules[i].path, peft.modules[i].path);
    EXPECT_EQ(ours.modules[i].rank, peft.modules[i].rank);
    EXPECT_DOUBLE_EQ(ours.modules[i].scale, peft.modules[i].scale);
    const std::vector<double> mine = testing::DeltaWeight(ours.modules[i]);
    const std::vector<double> theirs = testing::DeltaWeight(peft.modules[i]);
    EXPECT_GT(Cosine(mine, theirs, std::vector<double>(mine.size())), kChangeCosine);
  }
}

void ExpectSameSteps(const std::vector<StepReport>& ours, const Json& expected) {
  const Json& loss = expected["loss"];
  const Json& grad_norm = expected["grad_norm"];
  ASSERT_EQ(ours.size(), loss.size());
  for (size_t i = 0; i < ours.size(); ++i) {
    SCOPED_TRACE(i);
    EXPECT_NEAR(ours[i].loss / loss[i].get<double>(), 1, kLossTolerance);
    EXPECT_NEAR(ours[i].grad_norm / grad_norm[i].get<double>(), 1, kGradNormTolerance);
  }
}

class TrainingGolden : public ::testing::TestWithParam<std::string> {};

// The case's recipe and each variation of it that must not change the outcome, on both paths.
std::vector<Json> Recipes(const Json& expected) {
  std::vector<Json> recipes;
  for (const char* path : {"fast", "reference"}) {
    Json recipe = expected["recipe"];
    recipe["path"] = path;
    recipes.push_back(recipe);
    for (const Json& keys : expected["also"]) {
      recipes.push_back(recipe);
      recipes.back().update(keys);
    }
  }
  return recipes;
}

TEST_P(TrainingGolden, FiftyStepsEqualPeft) {
  const Json expected = ReadJson(GoldenPath(GetParam() + "/expected.json"));
  const Json& init = expected["init"];
  const LoraAdapter peft = ReadAdapter(GetParam());
  for (const Json& recipe : Recipes(expected)) {
    SCOPED_TRACE(DisplayJson(recipe));
    FakeClock clock;
    ASSERT_OK_AND_ASSIGN(const TrainedAdapter trained,
                         TrainLora(MakeJob(recipe, init), {}, PosixFileSystem(), clock, {}));
    EXPECT_EQ(trained.history.size(), 50u);
    ExpectSameSteps(trained.history, expected);
    if (init.is_null()) {
      ExpectSameUpdate(trained.adapter, peft);
    } else {
      ExpectSameAdapter(trained.adapter, peft, ReadAdapter(init));
    }
  }
}

// The reference takes rows in our order: tools/bench/peers/row_order.py says the same as
// row_order.h.
TEST_P(TrainingGolden, ReferenceTookTheRowsInOurOrder) {
  const Json expected = ReadJson(GoldenPath(GetParam() + "/expected.json"));
  const TrainingJob job = MakeJob(expected["recipe"], expected["init"]);
  EXPECT_EQ(EpochOrder(job.recipe, job.rows, 0), expected["order"].get<std::vector<int64_t>>());
}

// Steps in bf16 follow PEFT's until a sum that falls on the other side of a rounding makes itself
// felt; after 50 of them the runs lie as far apart as two CPU types' would.
TEST(TrainingGoldenBf16, StepsStayBesidePeftsWithinTheirRounding) {
  for (const std::string name : {"bf16_autocast", "bf16"}) {
    SCOPED_TRACE(name);
    const Json expected = ReadJson(GoldenPath(name + "/expected.json"));
    FakeClock clock;
    ASSERT_OK_AND_ASSIGN(
        const TrainedAdapter trained,
        TrainLora(MakeJob(expected["recipe"], expected["init"]), {}, PosixFileSystem(), clock, {}));
    const LoraAdapter peft = ReadAdapter(name), start = ReadAdapter(expected["init"]);
    ASSERT_EQ(trained.history.size(), expected["loss"].size());
    for (size_t i = 0; i < trained.history.size(); ++i) {
      SCOPED_TRACE(i);
      EXPECT_NEAR(trained.history[i].loss / expected["loss"][i].get<double>(), 1, kBf16Loss);
    }
    ASSERT_EQ(trained.adapter.modules.size(), peft.modules.size());
    for (size_t i = 0; i < peft.modules.size(); ++i) {
      SCOPED_TRACE(peft.modules[i].path);
      EXPECT_GT(Cosine(trained.adapter.modules[i].a, peft.modules[i].a, start.modules[i].a),
                kBf16ChangeCosine);
      EXPECT_GT(Cosine(trained.adapter.modules[i].b, peft.modules[i].b, start.modules[i].b),
                kBf16ChangeCosine);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Cases, TrainingGolden,
                         ::testing::Values("plain", "linear_warmup", "cosine_weight_decay",
                                           "clipped", "rslora", "patterns", "lora_plus", "dora",
                                           "dora_lora_plus", "pissa", "olora", "dropout",
                                           "saved_all", "saved_norms"),
                         [](const auto& param) { return param.param; });

}  // namespace
}  // namespace evolora
