// Whole runs against transformers + PEFT: tests/golden/training, written by
// tools/golden/make_training_golden.py.
#include <string>
#include <vector>

#include "adapters/sample_adapter.h"
#include "row_order.h"
#include "support/fake_clock.h"
#include "trainers/golden_run.h"

namespace evolora {
namespace {

using ::evolora::testing::Cosine;
using ::evolora::testing::ExpectSameAdapter;
using ::evolora::testing::ExpectSameSteps;
using ::evolora::testing::FakeClock;
using ::evolora::testing::GoldenPath;
using ::evolora::testing::kChangeCosine;
using ::evolora::testing::MakeGoldenJob;
using ::evolora::testing::ReadAdapter;
using ::evolora::testing::ReadJson;
using ::evolora::testing::Recipes;

// One rounding to bf16 is 2^-9 = 0.002 relative.
constexpr double kBf16Loss = 2e-3;
constexpr double kBf16ChangeCosine = 0.99;

// A case's folder below tests/golden.
std::string Folder(const std::string& name) { return "training/" + name; }

Json Expected(const std::string& name) {
  return ReadJson(GoldenPath(Folder(name + "/expected.json")));
}

// Where the case starts: a folder, or null.
Json Start(const Json& expected) {
  const Json& init = expected["init"];
  return init.is_null() ? init : Json(Folder(init));
}

TrainingJob MakeJob(const Json& recipe, const Json& start) {
  return MakeGoldenJob(recipe, Folder("rows.jsonl"), start);
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

class TrainingGolden : public ::testing::TestWithParam<std::string> {};

TEST_P(TrainingGolden, FiftyStepsEqualPeft) {
  const Json expected = Expected(GetParam());
  const Json start = Start(expected);
  const LoraAdapter peft = ReadAdapter(Folder(GetParam()));
  for (const Json& recipe : Recipes(expected)) {
    SCOPED_TRACE(DisplayJson(recipe));
    FakeClock clock;
    ASSERT_OK_AND_ASSIGN(const TrainedAdapter trained,
                         TrainLora(MakeJob(recipe, start), {}, PosixFileSystem(), clock, {}));
    EXPECT_EQ(trained.history.size(), 50u);
    ExpectSameSteps(trained.history, expected);
    if (start.is_null()) {
      ExpectSameUpdate(trained.adapter, peft);
    } else {
      ExpectSameAdapter(trained.adapter, peft, ReadAdapter(start));
    }
  }
}

// The reference takes rows in our order: tools/bench/peers/row_order.py says the same as
// row_order.h.
TEST_P(TrainingGolden, ReferenceTookTheRowsInOurOrder) {
  const Json expected = Expected(GetParam());
  const TrainingJob job = MakeJob(expected["recipe"], Start(expected));
  EXPECT_EQ(EpochOrder(job.recipe, job.rows, 0), expected["order"].get<std::vector<int64_t>>());
}

// Steps in bf16 follow PEFT's until a sum that falls on the other side of a rounding makes itself
// felt; after 50 of them the runs lie as far apart as two CPU types' would.
TEST(TrainingGoldenBf16, StepsStayBesidePeftsWithinTheirRounding) {
  for (const std::string name : {"bf16_autocast", "bf16"}) {
    SCOPED_TRACE(name);
    const Json expected = Expected(name);
    FakeClock clock;
    ASSERT_OK_AND_ASSIGN(
        const TrainedAdapter trained,
        TrainLora(MakeJob(expected["recipe"], Start(expected)), {}, PosixFileSystem(), clock, {}));
    const LoraAdapter peft = ReadAdapter(Folder(name)), start = ReadAdapter(Start(expected));
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
