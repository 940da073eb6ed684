#include "evolora/trainers/sweep.h"

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "evolora/core/random.h"
#include "model/random_model.h"
#include "support/fake_clock.h"
#include "support/status_matchers.h"
#include "support/temp_dir.h"

namespace evolora {
namespace {

using ::evolora::testing::FakeClock;
using ::evolora::testing::IsOk;
using ::evolora::testing::StatusIs;
using ::evolora::testing::TempDir;
using ::testing::_;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Each id is followed by one of its own, so that there is something to learn.
std::vector<TrainingRow> Rows(int64_t count, uint64_t seed) {
  Random random(seed);
  std::vector<TrainingRow> rows;
  for (int64_t i = 0; i < count; ++i) {
    TrainingRow row{.ids = {static_cast<TokenId>(random.NextBelow(37))}};
    for (int64_t t = 0; t < 7; ++t) row.ids.push_back((row.ids.back() * 5 + 3) % 37);
    row.labels = row.ids;
    rows.push_back(row);
  }
  return rows;
}

// Rates from useless to good, and a start that leads nowhere.
std::vector<SweepTrial> Trials() {
  const std::shared_ptr<const LlamaWeights> base =
      testing::RandomWeights(testing::SmallConfig(), 7);
  std::vector<SweepTrial> trials;
  for (const double rate : {1e-6, 1e-3, 1e-2, 3e-2, 1e-2}) {
    TrainingJob job{.base = base, .base_name = "tiny", .base_weights_fingerprint = "tiny-7"};
    job.rows = Rows(16, 1);
    job.recipe.rank = 4;
    job.recipe.alpha = 8;
    job.recipe.learning_rate = rate;
    job.recipe.rows_per_step = 4;
    job.recipe.epochs = 4;
    job.recipe.checkpoint_every_steps = 3;
    trials.push_back({absl::StrCat("rate", trials.size()), job});
  }
  TrainingJob& last = trials.back().job;
  last.init = testing::RandomAdapter(base->config, 4, 5);
  for (LoraModule& module : last.init->modules) {
    std::fill(module.b.begin(), module.b.end(), 1e38f);  // its activations overflow
  }
  return trials;
}

SweepOptions Options(const std::string& folder) {
  return {.held_out = Rows(6, 2), .num_rungs = 3, .keep = 0.5, .folder = folder};
}

absl::StatusOr<SweepReport> RunTrials(const std::vector<SweepTrial>& trials,
                                      const SweepOptions& options, std::stop_token stop = {}) {
  const FakeClock clock;
  return RunSweep(trials, options, PosixFileSystem(), clock, stop);
}

void ExpectSameReport(const SweepReport& a, const SweepReport& b) {
  EXPECT_EQ(a.best, b.best);
  EXPECT_EQ(AdapterDigest(a.adapter.adapter), AdapterDigest(b.adapter.adapter));
  ASSERT_EQ(a.trials.size(), b.trials.size());
  for (size_t i = 0; i < a.trials.size(); ++i) {
    EXPECT_EQ(a.trials[i].held_out_losses, b.trials[i].held_out_losses) << i;
    EXPECT_EQ(a.trials[i].steps, b.trials[i].steps) << i;
    EXPECT_EQ(a.trials[i].status, b.trials[i].status) << i;
  }
}

// 16 steps: rungs at 4, 8 and 16. Of 5 trials 3 go on, of 3 two.
TEST(Sweep, HalvesTheTrialsAtEachRungByHeldOutLoss) {
  const TempDir folder;
  const std::vector<SweepTrial> trials = Trials();
  ASSERT_OK_AND_ASSIGN(const SweepReport report, RunTrials(trials, Options(folder.path())));
  std::vector<int64_t> steps;
  std::vector<size_t> rungs;
  for (const TrialReport& trial : report.trials) {
    EXPECT_EQ(trial.total_steps, 16);
    steps.push_back(trial.steps);
    rungs.push_back(trial.held_out_losses.size());
  }
  EXPECT_THAT(report.trials[4].status, StatusIs(absl::StatusCode::kAborted, HasSubstr("step 1")));
  EXPECT_EQ(std::count(rungs.begin(), rungs.end(), 3u), 2);
  EXPECT_EQ(std::count(rungs.begin(), rungs.end(), 2u), 1);
  EXPECT_EQ(std::count(rungs.begin(), rungs.end(), 1u), 1);
  for (size_t i = 0; i < 4; ++i) EXPECT_EQ(steps[i], rungs[i] == 3 ? 16 : rungs[i] == 2 ? 8 : 4);
  EXPECT_EQ(rungs[0], 1u);  // a rate of 1e-6 learns nothing
  // The order at each rung is that of its losses.
  for (size_t rung = 0; rung < 2; ++rung) {
    double worst_kept = 0, best_stopped = 1e9;
    for (const TrialReport& trial : report.trials) {
      if (trial.held_out_losses.size() <= rung) continue;
      const double loss = trial.held_out_losses[rung];
      if (trial.held_out_losses.size() > rung + 1) worst_kept = std::max(worst_kept, loss);
      if (trial.held_out_losses.size() == rung + 1) best_stopped = std::min(best_stopped, loss);
    }
    EXPECT_LE(worst_kept, best_stopped) << rung;
  }
  for (const TrialReport& trial : report.trials) {
    if (trial.held_out_losses.size() < 3) continue;
    EXPECT_GE(trial.held_out_losses[2],
              report.trials[static_cast<size_t>(report.best)].held_out_losses[2]);
  }
}

TEST(Sweep, TheBestAdapterIsTheOneThatItsTrialGivesAlone) {
  const TempDir folder;
  const std::vector<SweepTrial> trials = Trials();
  ASSERT_OK_AND_ASSIGN(const SweepReport report, RunTrials(trials, Options(folder.path())));
  const FakeClock clock;
  ASSERT_OK_AND_ASSIGN(
      const TrainedAdapter alone,
      TrainLora(trials[static_cast<size_t>(report.best)].job, {}, PosixFileSystem(), clock, {}));
  EXPECT_EQ(AdapterDigest(report.adapter.adapter), AdapterDigest(alone.adapter));
  EXPECT_TRUE(PosixFileSystem().Exists(folder.path() + "/rate0/metrics/metrics.h5"));
}

TEST(Sweep, OnTheDevicePathTheSameTrialsGoOn) {
  const TempDir fast_folder, device_folder;
  std::vector<SweepTrial> trials = Trials();
  ASSERT_OK_AND_ASSIGN(const SweepReport fast, RunTrials(trials, Options(fast_folder.path())));
  for (SweepTrial& trial : trials) trial.job.recipe.path = TrainingPath::kDevice;
  ASSERT_OK_AND_ASSIGN(const SweepReport device, RunTrials(trials, Options(device_folder.path())));
  EXPECT_EQ(device.best, fast.best);
  for (size_t i = 0; i < trials.size(); ++i) {
    const std::vector<double>&losses = device.trials[i].held_out_losses,
          &expected = fast.trials[i].held_out_losses;
    EXPECT_EQ(device.trials[i].steps, fast.trials[i].steps) << i;
    ASSERT_EQ(losses.size(), expected.size()) << i;
    for (size_t k = 0; k < losses.size(); ++k) EXPECT_NEAR(losses[k] / expected[k], 1, 1e-4);
  }
}

TEST(Sweep, LimitsDoNotChangeTheReport) {
  const TempDir folder, other;
  const std::vector<SweepTrial> trials = Trials();
  ASSERT_OK_AND_ASSIGN(const SweepReport report, RunTrials(trials, Options(folder.path())));
  SweepOptions narrow = Options(other.path());
  narrow.limits = {.max_adapters = 2, .tokens_per_pass = 9};
  ASSERT_OK_AND_ASSIGN(const SweepReport again, RunTrials(trials, narrow));
  ExpectSameReport(report, again);
}

TEST(Sweep, StoppedAnywhereItResumesToTheSameReport) {
  const TempDir whole;
  const std::vector<SweepTrial> trials = Trials();
  ASSERT_OK_AND_ASSIGN(const SweepReport unbroken, RunTrials(trials, Options(whole.path())));
  for (const int64_t stop_at : {7, 30}) {  // steps of all trials
    SCOPED_TRACE(stop_at);
    const TempDir folder;
    std::stop_source stop;
    int64_t steps = 0;
    SweepOptions options = Options(folder.path());
    options.on_step = [&](const std::string&, const StepReport&) {
      if (++steps == stop_at) stop.request_stop();
    };
    ASSERT_THAT(RunTrials(trials, options, stop.get_token()),
                StatusIs(absl::StatusCode::kCancelled, _));
    options.on_step = nullptr;
    EXPECT_THAT(RunTrials(trials, options),
                StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("holds a sweep")));
    options.resume = true;
    ASSERT_OK_AND_ASSIGN(const SweepReport resumed, RunTrials(trials, options));
    ExpectSameReport(unbroken, resumed);
    // Done, it only tells.
    ASSERT_OK_AND_ASSIGN(const SweepReport told, RunTrials(trials, options));
    ExpectSameReport(unbroken, told);
    options.keep = 0.3;
    EXPECT_THAT(RunTrials(trials, options),
                StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("another sweep")));
  }
}

TEST(Sweep, RefusesWhatItCannotCompare) {
  const TempDir folder;
  std::vector<SweepTrial> trials = Trials();
  SweepOptions options = Options(folder.path());
  options.held_out.clear();
  EXPECT_THAT(RunTrials(trials, options),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("held out")));
  options = Options(folder.path());
  options.keep = 1;
  EXPECT_THAT(RunTrials(trials, options),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("keep 1")));
  options = Options(folder.path());
  EXPECT_THAT(RunTrials({}, options), StatusIs(absl::StatusCode::kInvalidArgument, _));
  trials[1].name = trials[0].name;
  EXPECT_THAT(RunTrials(trials, options),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("twice")));
  EXPECT_THAT(RunTrials({Trials()[4]}, options),
              StatusIs(absl::StatusCode::kAborted, HasSubstr("rate4")));
}

TEST(SweepPoints, AreAllCombinationsInOrderWithNamesThatFitAFolder) {
  ASSERT_OK_AND_ASSIGN(const SweepAxis rates, ParseSweepAxis("learning_rate=1e-4,3e-4"));
  ASSERT_OK_AND_ASSIGN(const SweepAxis targets,
                       ParseSweepAxis("target_modules=[\"q_proj\"],[\"q_proj\",\"v_proj\"]"));
  ASSERT_OK_AND_ASSIGN(const SweepAxis schedules, ParseSweepAxis("schedule=cosine"));
  ASSERT_OK_AND_ASSIGN(const auto points,
                       SweepPoints(Json{{"rank", 8}}, {rates, targets, schedules}));
  ASSERT_EQ(points.size(), 4u);
  EXPECT_EQ(points[0].name, "learning_rate=1e-04,target_modules=q_proj,schedule=cosine");
  EXPECT_EQ(points[3].name, "learning_rate=3e-04,target_modules=q_proj+v_proj,schedule=cosine");
  EXPECT_EQ(points[3].recipe.learning_rate, 3e-4);
  EXPECT_EQ(points[3].recipe.rank, 8);
  EXPECT_THAT(points[1].recipe.target_modules, ElementsAre("q_proj", "v_proj"));
}

TEST(SweepPoints, RefuseAxesThatMeanNothing) {
  EXPECT_THAT(ParseSweepAxis("rank"), StatusIs(absl::StatusCode::kInvalidArgument, _));
  EXPECT_THAT(ParseSweepAxis("rank=8,,4"), StatusIs(absl::StatusCode::kInvalidArgument, _));
  const auto points = [](std::vector<SweepAxis> axes) {
    return SweepPoints(Json::object(), axes).status();
  };
  EXPECT_THAT(points({}), StatusIs(absl::StatusCode::kInvalidArgument, _));
  EXPECT_THAT(points({{"rank", {8}}, {"rank", {4}}}),
              StatusIs(absl::StatusCode::kInvalidArgument, _));
  EXPECT_THAT(points({{"rank", {8, 8}}}), StatusIs(absl::StatusCode::kInvalidArgument, _));
  EXPECT_THAT(points({{"rnak", {8}}}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("rnak")));
  EXPECT_THAT(points({{"rank", {0}}}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("rank=0")));
}

TEST(TakeHeldOut, KeepsEqualRowsTogetherAndReplayInTraining) {
  std::vector<TrainingRow> rows = Rows(40, 3);  // of 37 first ids: some are equal
  for (TrainingRow row : Rows(5, 4)) {
    row.replay = true;
    rows.push_back(row);
  }
  std::vector<TrainingRow> training = rows;
  ASSERT_OK_AND_ASSIGN(const std::vector<TrainingRow> held_out, TakeHeldOut(training, 0.25, 1));
  EXPECT_GE(held_out.size(), 10u);
  EXPECT_LE(held_out.size(), 14u);
  EXPECT_EQ(held_out.size() + training.size(), rows.size());
  for (const TrainingRow& row : held_out) {
    EXPECT_FALSE(row.replay);
    for (const TrainingRow& other : training) EXPECT_TRUE(other.replay || other.ids != row.ids);
  }
  std::vector<TrainingRow> again = rows, another = rows;
  ASSERT_OK_AND_ASSIGN(const std::vector<TrainingRow> same, TakeHeldOut(again, 0.25, 1));
  EXPECT_EQ(TrainingRowsDigest(same), TrainingRowsDigest(held_out));
  ASSERT_OK_AND_ASSIGN(const std::vector<TrainingRow> other, TakeHeldOut(another, 0.25, 2));
  EXPECT_NE(TrainingRowsDigest(other), TrainingRowsDigest(held_out));
  std::vector<TrainingRow> equal = {rows[0], rows[0]};
  EXPECT_THAT(TakeHeldOut(equal, 0.5, 1), StatusIs(absl::StatusCode::kInvalidArgument, _));
}

}  // namespace
}  // namespace evolora
