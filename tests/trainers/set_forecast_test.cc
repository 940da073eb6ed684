#include "evolora/trainers/set_forecast.h"

#include <algorithm>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "support/temp_dir.h"
#include "trainers/resident_jobs.h"

namespace evolora {
namespace {

using ::evolora::testing::FakeClock;
using ::evolora::testing::IsOk;
using ::evolora::testing::MakeJob;
using ::evolora::testing::OddJobs;
using ::evolora::testing::RowsOf;
using ::evolora::testing::StatusIs;
using ::evolora::testing::TempDir;
using ::evolora::testing::WideBase;
using ::testing::HasSubstr;

std::vector<RunForecast> ForecastsOf(const std::vector<QueuedJob>& jobs) {
  std::vector<RunForecast> forecasts;
  for (const QueuedJob& job : jobs) {
    const absl::StatusOr<RunForecast> forecast = ForecastRun(job.job);
    EXPECT_THAT(forecast.status(), IsOk());
    forecasts.push_back(*forecast);
  }
  return forecasts;
}

TEST(ForecastJobs, CountsWhatTheTrainerReports) {
  const auto base = WideBase();
  const std::vector<QueuedJob> jobs = OddJobs(base);
  for (const ResidentLimits& limits :
       {ResidentLimits{}, ResidentLimits{.max_adapters = 2}, ResidentLimits{.tokens_per_step = 170},
        ResidentLimits{.tokens_per_step = 1}}) {
    SCOPED_TRACE(limits.tokens_per_step);
    const SetForecast forecast = ForecastJobs(ForecastsOf(jobs), limits);
    int64_t at_work = 0, most = 0, tokens = 0, labelled = 0;
    std::vector<QueuedJob> watched = jobs;
    for (QueuedJob& job : watched) {
      job.options.on_step = [&](const StepReport& step) {
        if (step.step == 1) ++at_work;
        most = std::max(most, at_work);
        if (step.step == step.total_steps) --at_work;
        tokens += step.tokens;
        labelled += step.labelled_tokens;
      };
    }
    for (const JobOutcome& outcome : testing::RunAll(base, watched, limits)) {
      EXPECT_THAT(outcome.trained.status(), IsOk());
    }
    EXPECT_EQ(forecast.num_jobs, 5);
    EXPECT_EQ(forecast.tokens, tokens);
    EXPECT_EQ(forecast.labelled_tokens, labelled);
    EXPECT_EQ(forecast.most_at_once, most);
  }
}

TEST(ForecastJobs, TheBaseCountsOnceAndWhatWorksTogetherAddsUp) {
  const auto base = WideBase();
  const std::vector<QueuedJob> jobs = {MakeJob(base, "a", 4, 8), MakeJob(base, "b", 4, 8)};
  const std::vector<RunForecast> each = ForecastsOf(jobs);
  const SetForecast alone = ForecastJobs(each, {.max_adapters = 1});
  const SetForecast both = ForecastJobs(each, {});
  EXPECT_EQ(alone.memory.total(), each[0].memory.total());
  EXPECT_EQ(both.memory.weights, each[0].memory.weights);
  EXPECT_EQ(both.memory.optimiser, 2 * each[0].memory.optimiser);
  EXPECT_EQ(both.memory.packed, 2 * each[0].memory.packed);
  EXPECT_EQ(both.memory.checkpoint, each[0].memory.checkpoint);
  EXPECT_EQ(both.steps, each[0].total_steps);
  EXPECT_EQ(alone.steps, 2 * each[0].total_steps);
  EXPECT_EQ(both.trainable_parameters, 2 * each[0].trainable_parameters);
}

TEST(ForecastJobs, OnADeviceOneJobWorksAtATime) {
  const auto base = WideBase();
  std::vector<QueuedJob> jobs = OddJobs(base);
  for (const size_t i : {1, 2, 4}) jobs[i].job.recipe.path = TrainingPath::kDevice;
  const std::vector<RunForecast> alone = ForecastsOf(jobs);
  const SetForecast forecast = ForecastJobs(alone, {});
  EXPECT_EQ(forecast.most_at_once, 1);  // none beside another
  int64_t steps = 0, most = 0;
  for (const RunForecast& job : alone) {
    steps += job.total_steps;
    if (job.device_memory) most = std::max(most, job.device_memory->total());
  }
  EXPECT_EQ(forecast.steps, steps);
  ASSERT_TRUE(forecast.device_memory.has_value());
  EXPECT_EQ(forecast.device_memory->total(), most);
  EXPECT_FALSE(ForecastJobs(absl::MakeConstSpan(alone).first(1), {}).device_memory.has_value());
}

TEST(ForecastJobs, SavedModulesHavePassesOfTheirOwn) {
  const auto base = WideBase();
  std::vector<QueuedJob> jobs = {MakeJob(base, "a", 4, 8), MakeJob(base, "b", 4, 8)};
  const SetForecast shared = ForecastJobs(ForecastsOf(jobs), {.tokens_per_pass = 1});
  jobs[1].job.recipe.modules_to_save = {"lm_head"};
  const SetForecast apart = ForecastJobs(ForecastsOf(jobs), {.tokens_per_pass = 1});
  EXPECT_GT(apart.memory.arena, shared.memory.arena);
  const int64_t head = base->config.vocab_size * base->config.hidden_size * 4;
  EXPECT_EQ(apart.memory.optimiser, shared.memory.optimiser + 4 * head);
}

std::vector<SweepTrial> Trials(const std::shared_ptr<const LlamaWeights>& base) {
  std::vector<SweepTrial> trials;
  for (const int64_t rank : {2, 3, 5, 8}) {
    QueuedJob job = MakeJob(base, absl::StrCat("rank=", rank), rank, 12);
    job.job.rows = RowsOf(base->config, 12, 1);
    job.job.recipe.epochs = 4;
    trials.push_back({job.name, job.job});
  }
  return trials;
}

TEST(ForecastSweep, IsWhatTheSweepTakesWhenTheDearestGoOn) {
  const auto base = WideBase();
  std::vector<SweepTrial> trials = Trials(base);
  SweepOptions options{.held_out = RowsOf(base->config, 4, 77)};
  ASSERT_OK_AND_ASSIGN(const SetForecast forecast, ForecastSweep(trials, options));
  const TempDir work;
  options.folder = work.path();
  int64_t tokens = 0;
  options.on_step = [&](const std::string&, const StepReport& step) { tokens += step.tokens; };
  FakeClock clock;
  ASSERT_OK_AND_ASSIGN(const SweepReport report,
                       RunSweep(trials, options, PosixFileSystem(), clock, {}));
  EXPECT_EQ(forecast.num_jobs, 4);
  EXPECT_EQ(forecast.most_at_once, 4);
  // Equal rows and orders: the same tokens, whichever trials went on.
  EXPECT_EQ(forecast.tokens, tokens);
  // 12 steps: all until 3, two until 6, one until the end.
  EXPECT_EQ(forecast.steps, 12);
  double trained = 0;
  for (const SweepTrial& trial : trials) {
    ASSERT_OK_AND_ASSIGN(const RunForecast run, ForecastRun(trial.job));
    trained += run.computed_flops;
  }
  EXPECT_LT(forecast.computed_flops, trained);
}

TEST(ForecastSweep, RefusesWhatASweepRefuses) {
  const auto base = WideBase();
  std::vector<SweepTrial> trials = Trials(base);
  const SweepOptions options{.held_out = RowsOf(base->config, 4, 77)};
  trials[1].job.recipe.rank = 400;
  EXPECT_THAT(ForecastSweep(trials, options),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("trial rank=3")));
  trials[1].job.recipe = LoraRecipe{.method = TrainingMethod::kFull};
  EXPECT_THAT(ForecastSweep(trials, options),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("the method 'full'")));
  EXPECT_THAT(ForecastSweep({}, options),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("no trial")));
}

}  // namespace
}  // namespace evolora
