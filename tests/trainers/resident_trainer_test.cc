#include "evolora/trainers/resident_trainer.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "evolora/core/random.h"
#include "model/random_model.h"
#include "support/failing_file_system.h"
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
using ::testing::HasSubstr;

// Wide enough for rank 64, with odd sizes elsewhere.
std::shared_ptr<const LlamaWeights> WideBase() {
  LlamaConfig config = testing::SmallConfig();
  config.hidden_size = 80;
  config.intermediate_size = 70;
  config.num_kv_heads = 6;
  config.head_dim = 12;
  return testing::RandomWeights(config, 7);
}

// Rows that begin with what the rows of every other job begin with.
std::vector<TrainingRow> RowsOf(const LlamaConfig& config, int64_t count, uint64_t seed) {
  const std::vector<TokenId> prefix = testing::RandomIds(config, 6, 99);
  Random random(seed);
  std::vector<TrainingRow> rows;
  for (int64_t i = 0; i < count; ++i) {
    TrainingRow row{.ids = prefix};
    const auto length = static_cast<int64_t>(2 + random.NextBelow(20));
    for (const TokenId id :
         testing::RandomIds(config, length, seed * 100 + static_cast<uint64_t>(i)))
      row.ids.push_back(id);
    row.labels = row.ids;
    std::fill_n(row.labels.begin(), 5 + random.NextBelow(3), kIgnoreLabel);
    rows.push_back(row);
  }
  return rows;
}

QueuedJob MakeJob(const std::shared_ptr<const LlamaWeights>& base, const std::string& name,
                  int64_t rank, int64_t num_rows) {
  QueuedJob queued{.name = name};
  TrainingJob& job = queued.job;
  job.base = base;
  job.base_name = "tiny";
  job.base_weights_fingerprint = "tiny-7";
  job.rows = RowsOf(base->config, num_rows, static_cast<uint64_t>(rank));
  job.recipe.rank = rank;
  job.recipe.alpha = static_cast<double>(2 * rank);
  job.recipe.learning_rate = 1e-2;
  job.recipe.rows_per_step = 4;
  job.recipe.epochs = 2;
  job.recipe.seed = static_cast<uint64_t>(num_rows);
  job.recipe.checkpoint_every_steps = 2;
  return queued;
}

// Jobs that differ in all that may differ.
std::vector<QueuedJob> OddJobs(const std::shared_ptr<const LlamaWeights>& base) {
  std::vector<QueuedJob> jobs = {MakeJob(base, "one", 1, 12), MakeJob(base, "three", 3, 5),
                                 MakeJob(base, "sixty-four", 64, 9), MakeJob(base, "two", 2, 12),
                                 MakeJob(base, "five", 5, 7)};
  jobs[0].job.recipe.target_modules = {"q_proj", "down_proj"};
  jobs[0].job.recipe.schedule = LearningRateSchedule::kCosine;
  jobs[0].job.recipe.warmup_ratio = 0.3;
  jobs[1].job.recipe.epochs = 1;  // ends first
  jobs[1].job.recipe.tokens_per_micro_batch = 20;
  jobs[2].job.recipe.learning_rate = 1e-3;
  jobs[2].job.recipe.lora_plus_ratio = 4;
  jobs[2].job.recipe.rows_per_step = 3;
  jobs[3].job.recipe.target_modules = {"model.layers.2.mlp.up_proj",
                                       "model.layers.1.self_attn.o_proj"};
  jobs[3].job.recipe.schedule = LearningRateSchedule::kConstant;
  jobs[4].job.recipe.rank_pattern = {{"v_proj", 7}};
  jobs[4].job.recipe.weight_decay = 0.1;
  return jobs;
}

// Those that need more of the fast path.
std::vector<QueuedJob> SpecialJobs(const std::shared_ptr<const LlamaWeights>& base) {
  std::vector<QueuedJob> jobs = {MakeJob(base, "dropout", 4, 8), MakeJob(base, "dora", 2, 6),
                                 MakeJob(base, "dpo", 3, 6), MakeJob(base, "plain", 5, 8)};
  jobs[0].job.recipe.lora_dropout = 0.3;
  jobs[1].job.recipe.use_dora = true;
  jobs[1].job.recipe.exclude_modules = {"gate_proj"};
  jobs[2].job.recipe.objective.kind = ObjectiveKind::kDpo;
  for (TrainingRow& row : jobs[2].job.rows) {
    row.counterpart = {.ids = row.ids, .labels = row.labels};
    for (size_t t = 8; t < row.ids.size(); ++t) {
      row.counterpart.ids[t] = row.counterpart.labels[t] = (row.ids[t] + 5) % 37;
    }
  }
  return jobs;
}

std::vector<JobOutcome> RunAll(const std::shared_ptr<const LlamaWeights>& base,
                               std::vector<QueuedJob> jobs, const ResidentLimits& limits = {},
                               std::stop_token stop = {}, FileSystem& fs = PosixFileSystem()) {
  const FakeClock clock;
  auto trainer = ResidentTrainer::Create(base, limits);
  EXPECT_THAT(trainer.status(), IsOk());
  return (*trainer)->RunAll(std::move(jobs), fs, clock, stop);
}

absl::StatusOr<TrainedAdapter> Alone(const QueuedJob& queued) {
  const FakeClock clock;
  return TrainLora(queued.job, queued.options, PosixFileSystem(), clock, {});
}

void ExpectSameBytes(const JobOutcome& outcome, const TrainedAdapter& alone) {
  SCOPED_TRACE(outcome.name);
  ASSERT_THAT(outcome.trained.status(), IsOk());
  const TrainedAdapter& together = *outcome.trained;
  ASSERT_EQ(together.history.size(), alone.history.size());
  for (size_t i = 0; i < alone.history.size(); ++i) {
    EXPECT_EQ(together.history[i].loss, alone.history[i].loss) << "step " << i;
    EXPECT_EQ(together.history[i].grad_norm, alone.history[i].grad_norm) << "step " << i;
    EXPECT_EQ(together.history[i].learning_rate, alone.history[i].learning_rate);
    EXPECT_EQ(together.history[i].figures, alone.history[i].figures);
  }
  EXPECT_EQ(AdapterDigest(together.adapter), AdapterDigest(alone.adapter));
  EXPECT_EQ(together.total_flops, alone.total_flops);
}

void ExpectAllAsAlone(const std::vector<QueuedJob>& jobs, const std::vector<JobOutcome>& outcomes) {
  ASSERT_EQ(outcomes.size(), jobs.size());
  for (size_t i = 0; i < jobs.size(); ++i) {
    EXPECT_EQ(outcomes[i].name, jobs[i].name);
    ASSERT_OK_AND_ASSIGN(const TrainedAdapter alone, Alone(jobs[i]));
    ExpectSameBytes(outcomes[i], alone);
  }
}

TEST(ResidentTrainer, EveryJobHasTheBytesItHasAlone) {
  const auto base = WideBase();
  const std::vector<QueuedJob> jobs = OddJobs(base);
  for (const int64_t tokens_per_pass : {1, 70, 100000}) {
    SCOPED_TRACE(tokens_per_pass);
    ExpectAllAsAlone(jobs, RunAll(base, jobs, {.tokens_per_pass = tokens_per_pass}));
  }
}

TEST(ResidentTrainer, DropoutMagnitudesAndPreferencesStandBesidePlainJobs) {
  const auto base = testing::RandomWeights(testing::SmallConfig(), 7);
  const std::vector<QueuedJob> jobs = SpecialJobs(base);
  ExpectAllAsAlone(jobs, RunAll(base, jobs));
}

TEST(ResidentTrainer, EveryJobTakesTheStepsOfTheAutogradReference) {
  const auto base = WideBase();
  std::vector<QueuedJob> jobs = OddJobs(base);
  const std::vector<JobOutcome> outcomes = RunAll(base, jobs);
  for (size_t i = 0; i < jobs.size(); ++i) {
    SCOPED_TRACE(jobs[i].name);
    jobs[i].job.recipe.path = TrainingPath::kReference;
    ASSERT_OK_AND_ASSIGN(const TrainedAdapter reference, Alone(jobs[i]));
    ASSERT_THAT(outcomes[i].trained.status(), IsOk());
    const std::vector<StepReport>& history = outcomes[i].trained->history;
    ASSERT_EQ(history.size(), reference.history.size());
    for (size_t s = 0; s < history.size(); ++s) {
      EXPECT_NEAR(history[s].loss / reference.history[s].loss, 1, 1e-5) << "step " << s;
      EXPECT_NEAR(history[s].grad_norm / reference.history[s].grad_norm, 1, 1e-4) << "step " << s;
    }
  }
}

TEST(ResidentTrainer, JobsWaitUntilTheyFitAndAdaptersOrTokensLimit) {
  const auto base = WideBase();
  const std::vector<QueuedJob> jobs = OddJobs(base);
  for (const ResidentLimits& limits :
       {ResidentLimits{.max_adapters = 2}, ResidentLimits{.tokens_per_step = 1},
        ResidentLimits{.tokens_per_step = 170}}) {
    int64_t at_work = 0, most = 0;
    size_t given = 0;
    std::vector<JobOutcome> outcomes;
    ASSERT_OK_AND_ASSIGN(const auto trainer, ResidentTrainer::Create(base, limits));
    const auto next = [&]() -> std::optional<QueuedJob> {
      if (given == jobs.size()) return std::nullopt;
      QueuedJob job = jobs[given++];
      job.options.on_step = [&at_work, &most](const StepReport& step) {
        if (step.step == 1) ++at_work;
        most = std::max(most, at_work);
        if (step.step == step.total_steps) --at_work;
      };
      return job;
    };
    const auto take = [&](JobOutcome outcome) { outcomes.push_back(std::move(outcome)); };
    ASSERT_THAT(trainer->Run(next, take, PosixFileSystem(), FakeClock(), {}), IsOk());
    EXPECT_LE(most, limits.tokens_per_step == 1 ? 1 : limits.tokens_per_step == 170 ? 3 : 2);
    EXPECT_GE(most, limits.tokens_per_step == 1 ? 1 : 2);
    ASSERT_EQ(outcomes.size(), jobs.size());
    for (const QueuedJob& job : jobs) {
      const auto outcome = std::find_if(outcomes.begin(), outcomes.end(),
                                        [&](const JobOutcome& o) { return o.name == job.name; });
      ASSERT_NE(outcome, outcomes.end());
      ASSERT_OK_AND_ASSIGN(const TrainedAdapter alone, Alone(job));
      ExpectSameBytes(*outcome, alone);
    }
  }
}

TEST(ResidentTrainer, AStoppedQueueResumesEveryJobToTheSameBytes) {
  const auto base = WideBase();
  for (const int64_t stop_after : {1, 3}) {
    SCOPED_TRACE(stop_after);
    const TempDir work;
    const std::vector<QueuedJob> jobs = OddJobs(base);
    std::vector<QueuedJob> stopping = jobs;
    std::stop_source stop;
    for (QueuedJob& job : stopping) job.options.work_dir = work.path() + "/" + job.name;
    std::vector<QueuedJob> resuming = stopping;
    stopping[0].options.on_step = [&](const StepReport& step) {
      if (step.step == stop_after) stop.request_stop();
    };
    const ResidentLimits limits = {.max_adapters = 3};
    for (const JobOutcome& outcome : RunAll(base, stopping, limits, stop.get_token())) {
      if (outcome.trained.ok()) continue;  // the short one
      EXPECT_THAT(outcome.trained, StatusIs(absl::StatusCode::kCancelled, _));
    }
    for (QueuedJob& job : resuming) job.options.resume = true;
    ExpectAllAsAlone(jobs, RunAll(base, resuming, limits));
  }
}

// A kill leaves the checkpoints of different steps: two of each four steps here.
TEST(ResidentTrainer, JobsResumedAtDifferentStepsEndWithTheSameBytes) {
  const auto base = WideBase();
  const TempDir work;
  const std::vector<QueuedJob> jobs = OddJobs(base);
  std::vector<QueuedJob> partly = jobs;
  for (size_t i = 0; i < jobs.size(); ++i) {
    partly[i].options.work_dir = work.path() + "/" + jobs[i].name;
    partly[i].stop_after = static_cast<int64_t>(i) + 1;
  }
  std::vector<QueuedJob> resuming = partly;
  const std::vector<JobOutcome> early = RunAll(base, partly);
  for (size_t i = 0; i < jobs.size(); ++i) {
    ASSERT_THAT(early[i].trained.status(), IsOk());
    ASSERT_OK_AND_ASSIGN(const TrainedAdapter alone, Alone(jobs[i]));
    EXPECT_EQ(early[i].trained->history.size(), std::min(i + 1, alone.history.size()));
    resuming[i].options.resume = true;
    resuming[i].stop_after = 0;
  }
  ExpectAllAsAlone(jobs, RunAll(base, resuming));
}

TEST(ResidentTrainer, KilledAtAnyWriteTheQueueResumesToTheSameBytes) {
  const auto base = WideBase();
  std::vector<QueuedJob> jobs = OddJobs(base);
  jobs.resize(3);
  for (QueuedJob& job : jobs) job.job.recipe.checkpoint_every_steps = 1;
  std::vector<TrainedAdapter> alone;
  for (const QueuedJob& job : jobs) {
    ASSERT_OK_AND_ASSIGN(alone.emplace_back(), Alone(job));
  }
  const ResidentLimits limits = {.max_adapters = 2};
  int kills = 0;
  for (int n = 1;; ++n) {
    SCOPED_TRACE(n);
    const TempDir work;
    std::vector<QueuedJob> working = jobs;
    for (QueuedJob& job : working) {
      job.options.work_dir = work.path() + "/" + job.name;
      job.options.resume = true;
    }
    testing::FailingFileSystem dying(PosixFileSystem());
    dying.CrashAt(n, testing::CrashPoint::kTorn);
    RunAll(base, working, limits, {}, dying);  // dead: its outcomes do not matter
    if (!dying.crashed()) break;
    ++kills;
    const std::vector<JobOutcome> outcomes = RunAll(base, working, limits);
    for (size_t i = 0; i < jobs.size(); ++i) ExpectSameBytes(outcomes[i], alone[i]);
  }
  EXPECT_GT(kills, 8);
}

TEST(ResidentTrainer, AFullDiskEndsTheJobThatMeetsItAndLeavesItResumable) {
  const auto base = WideBase();
  const TempDir work;
  std::vector<QueuedJob> jobs = OddJobs(base);
  for (QueuedJob& job : jobs) job.options.work_dir = work.path() + "/" + job.name;
  testing::FailingFileSystem failing(PosixFileSystem());
  failing.FailAt(8, absl::ResourceExhaustedError("disk full"));  // five folders, then checkpoints
  const std::vector<JobOutcome> outcomes = RunAll(base, jobs, {}, {}, failing);
  int failed = 0;
  for (size_t i = 0; i < jobs.size(); ++i) {
    ASSERT_OK_AND_ASSIGN(const TrainedAdapter alone, Alone(OddJobs(base)[i]));
    if (outcomes[i].trained.ok()) {
      ExpectSameBytes(outcomes[i], alone);
      continue;
    }
    ++failed;
    EXPECT_THAT(outcomes[i].trained,
                StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("disk full")));
    jobs[i].options.resume = true;
    ExpectSameBytes(RunAll(base, {jobs[i]}).front(), alone);
  }
  EXPECT_EQ(failed, 1);
}

TEST(ResidentTrainer, AFailureEndsItsJobAlone) {
  const auto base = WideBase();
  std::vector<QueuedJob> jobs = OddJobs(base);
  const std::vector<QueuedJob> sound = {jobs[0], jobs[2], jobs[4]};
  jobs[1].job.rows[2].labels.assign(jobs[1].job.rows[2].ids.size(), kIgnoreLabel);
  jobs[3].job.recipe.target_modules = {};
  jobs[3].job.init = testing::RandomAdapter(base->config, 2, 5);
  for (LoraModule& module : jobs[3].job.init->modules) {
    std::fill(module.b.begin(), module.b.end(), 1e38f);  // its activations overflow
  }
  const std::vector<JobOutcome> outcomes = RunAll(base, jobs);
  EXPECT_THAT(outcomes[1].trained,
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("row 2")));
  EXPECT_THAT(outcomes[3].trained, StatusIs(absl::StatusCode::kAborted, HasSubstr("step 1")));
  ExpectAllAsAlone(sound, {outcomes[0], outcomes[2], outcomes[4]});
}

TEST(ResidentTrainer, RefusesWhatItDoesNotShare) {
  const auto base = testing::RandomWeights(testing::SmallConfig(), 7);
  const QueuedJob good = MakeJob(base, "good", 2, 4);
  std::vector<QueuedJob> jobs(8, good);
  for (size_t i = 0; i < jobs.size(); ++i) jobs[i].name = absl::StrCat(i);
  jobs[0].job.recipe.path = TrainingPath::kReference;
  jobs[1].job.recipe.init_lora_weights = LoraInit::kPissa;
  jobs[2].options.device = "cuda";
  jobs[3].job.base = testing::RandomWeights(testing::SmallConfig(), 8);
  const TempDir work;
  jobs[4].options.work_dir = jobs[5].options.work_dir = work.path();
  jobs[6].job.recipe.modules_to_save = {"norm"};
  jobs[7].job.recipe.base_weights = WeightStorage::kInt8;
  const std::vector<JobOutcome> outcomes = RunAll(base, jobs);
  for (const size_t i : {0, 1, 2, 6, 7}) {
    EXPECT_THAT(outcomes[i].trained,
                StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("alone")));
  }
  EXPECT_THAT(outcomes[3].trained, StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("base")));
  EXPECT_THAT(outcomes[4].trained, IsOk());
  EXPECT_THAT(outcomes[5].trained,
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr(work.path())));
}

TEST(ResidentTrainer, RefusesLimitsBelowOne) {
  const auto base = testing::RandomWeights(testing::SmallConfig(), 7);
  EXPECT_THAT(ResidentTrainer::Create(base, {.tokens_per_pass = 0}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("tokens_per_pass is 0")));
}

// The first loss of a run that starts from an adapter is that adapter's.
TEST(ResidentTrainer, TheHeldOutLossIsTheLossOfTheAdapterThatLeaves) {
  const auto base = testing::RandomWeights(testing::SmallConfig(), 7);
  QueuedJob job = MakeJob(base, "job", 3, 8);
  job.held_out = RowsOf(base->config, 6, 77);
  QueuedJob shorter = job;
  shorter.name = "shorter";
  shorter.stop_after = 2;
  for (const JobOutcome& outcome : RunAll(base, {job, shorter})) {
    SCOPED_TRACE(outcome.name);
    ASSERT_THAT(outcome.trained.status(), IsOk());
    QueuedJob after = job;
    after.job.rows = job.held_out;
    after.job.recipe.rows_per_step = 6;
    after.job.init = outcome.trained->adapter;
    ASSERT_OK_AND_ASSIGN(const TrainedAdapter measured, Alone(after));
    ASSERT_TRUE(outcome.held_out_loss.has_value());
    EXPECT_NEAR(*outcome.held_out_loss, measured.history.front().loss, 1e-6);
  }
}

}  // namespace
}  // namespace evolora
