#include "evolora/trainers/full_trainer.h"

#include <map>
#include <string>
#include <vector>

#include "ATen/ops/allclose.h"
#include "base_parameters.h"
#include "evolora/model/compact_weights.h"
#include "evolora/trainers/resident_trainer.h"
#include "evolora/trainers/run_forecast.h"
#include "support/fake_clock.h"
#include "support/status_matchers.h"
#include "support/temp_dir.h"
#include "trainers/tiny_job.h"

namespace evolora {
namespace {

using ::evolora::testing::FakeClock;
using ::evolora::testing::StatusIs;
using ::evolora::testing::StopAfter;
using ::evolora::testing::TempDir;
using ::evolora::testing::TinyDpoJob;
using ::evolora::testing::TinyJob;
using ::testing::HasSubstr;

// The same rows and steps, all weights trained.
TrainingJob Full(TrainingJob job) {
  job.recipe = LoraRecipe{.method = TrainingMethod::kFull,
                          .learning_rate = 3e-3,
                          .epochs = job.recipe.epochs,
                          .rows_per_step = job.recipe.rows_per_step,
                          .checkpoint_every_steps = job.recipe.checkpoint_every_steps,
                          .objective = job.recipe.objective};
  return job;
}

absl::StatusOr<TrainedBase> Train(const TrainingJob& job, const TrainOptions& options = {},
                                  std::stop_token stop = {}) {
  FakeClock clock;
  return TrainFull(job, options, PosixFileSystem(), clock, stop);
}

std::string Digest(const TrainedBase& trained) {
  const auto digest = WeightsFingerprint(*trained.weights);
  EXPECT_TRUE(digest.ok()) << digest.status();
  return digest.value_or("");
}

TEST(TrainFull, LossFallsAndEveryWeightLearnsWhileTheBaseStays) {
  TrainingJob job = Full(TinyJob());
  job.recipe.epochs = 10;
  ASSERT_OK_AND_ASSIGN(const std::string before, WeightsFingerprint(*job.base));
  ASSERT_OK_AND_ASSIGN(const TrainedBase trained, Train(job));
  ASSERT_EQ(trained.history.size(), 30u);
  EXPECT_LT(trained.history.back().loss, 0.5 * trained.history.front().loss);
  const std::vector<NamedTensor> old = NamedTensors(*job.base);
  const std::vector<NamedTensor> learnt = NamedTensors(*trained.weights);
  ASSERT_EQ(old.size(), learnt.size());
  for (size_t i = 0; i < old.size(); ++i) {
    EXPECT_FALSE(old[i].tensor.equal(learnt[i].tensor)) << old[i].name;
    EXPECT_FALSE(learnt[i].tensor.requires_grad()) << old[i].name;
  }
  ASSERT_OK_AND_ASSIGN(const std::string after, WeightsFingerprint(*job.base));
  EXPECT_EQ(before, after);
}

TEST(TrainFull, ATiedHeadStaysTheEmbedding) {
  TrainingJob job = Full(TinyJob());
  LlamaConfig config = job.base->config;
  config.tied_head = true;
  job.base = testing::RandomWeights(config, 7);
  ASSERT_OK_AND_ASSIGN(const TrainedBase trained, Train(job));
  EXPECT_EQ(trained.weights->head.const_data_ptr(), trained.weights->embedding.const_data_ptr());
}

// Rows of sft, pairs of dpo, samples of policy and hinted rows of distill.
std::vector<TrainingJob> JobsOfEveryObjective() {
  TrainingJob sft = Full(TinyJob()), dpo = Full(TinyDpoJob()), policy = sft, distill = sft;
  policy.recipe.objective.kind = ObjectiveKind::kPolicy;
  policy.recipe.objective.policy_kl_beta = 0.1;
  for (size_t i = 0; i < policy.rows.size(); ++i) {
    policy.rows[i].sample.advantage = i % 2 == 0 ? 1.0 : -0.5;
  }
  distill.recipe.objective.kind = ObjectiveKind::kDistill;
  distill.recipe.objective.distill_top_k = 5;
  for (TrainingRow& row : distill.rows) {
    row.counterpart = {.ids = row.ids, .labels = row.labels};
    row.counterpart.ids.insert(row.counterpart.ids.begin(), {3, 1, 4});
    row.counterpart.labels.insert(row.counterpart.labels.begin(), 3, kIgnoreLabel);
  }
  return {sft, dpo, policy, distill};
}

TEST(TrainFull, AllPathsTakeTheSameStepsOfEveryObjective) {
  for (TrainingJob& job : JobsOfEveryObjective()) {
    SCOPED_TRACE(ObjectiveName(job.recipe.objective.kind));
    job.recipe.learning_rate = 1e-3;
    job.recipe.epsilon = 1e-6;
    job.recipe.weight_decay = 0.1;
    job.recipe.path = TrainingPath::kReference;
    ASSERT_OK_AND_ASSIGN(const TrainedBase reference, Train(job));
    for (const TrainingPath path : {TrainingPath::kFast, TrainingPath::kDevice}) {
      SCOPED_TRACE(path == TrainingPath::kFast ? "fast" : "device");
      job.recipe.path = path;
      ASSERT_OK_AND_ASSIGN(const TrainedBase trained, Train(job));
      for (size_t i = 0; i < trained.history.size(); ++i) {
        const double loss = reference.history[i].loss;
        EXPECT_NEAR(trained.history[i].loss, loss, 1e-5 * std::max(0.1, std::abs(loss))) << i;
        EXPECT_NEAR(trained.history[i].grad_norm / reference.history[i].grad_norm, 1, 1e-4) << i;
      }
      EXPECT_NE(trained.history.front().loss, trained.history.back().loss);
      const std::vector<NamedTensor> ours = NamedTensors(*trained.weights);
      const std::vector<NamedTensor> theirs = NamedTensors(*reference.weights);
      for (size_t i = 0; i < ours.size(); ++i) {
        EXPECT_TRUE(at::allclose(ours[i].tensor, theirs[i].tensor, 0, 2e-4)) << ours[i].name;
      }
    }
  }
}

TEST(TrainFull, StoppedAndResumedGivesTheBytesOfTheUnbrokenRun) {
  std::vector<TrainingJob> jobs = JobsOfEveryObjective();
  jobs.push_back(jobs.front());
  jobs.back().recipe.path = TrainingPath::kDevice;
  for (const TrainingJob& job : jobs) {
    SCOPED_TRACE(ObjectiveName(job.recipe.objective.kind));
    ASSERT_OK_AND_ASSIGN(const TrainedBase unbroken, Train(job));
    const TempDir work;
    const StopAfter stop(5, work.path());
    ASSERT_THAT(Train(job, stop.options(), stop.token()),
                StatusIs(absl::StatusCode::kCancelled, HasSubstr("stopped after step 5")));
    ASSERT_OK_AND_ASSIGN(const TrainedBase resumed,
                         Train(job, {.work_dir = work.path(), .resume = true}));
    EXPECT_EQ(Digest(resumed), Digest(unbroken));
    TrainingJob adapter = TinyJob();
    EXPECT_THAT(testing::Train(adapter, {.work_dir = work.path(), .resume = true}),
                StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("another job")));
  }
}

TEST(TrainFull, MatricesDecayNormsAndBiasesDoNot) {
  LlamaConfig config = testing::SmallConfig();
  config.qkv_bias = true;
  const BaseParameters parameters(*testing::RandomWeights(config, 7));
  const std::vector<ParameterGroup> groups =
      parameters.Groups({.method = TrainingMethod::kFull, .weight_decay = 0.1});
  int64_t matrices = 0, vectors = 0;
  for (const NamedShape& entry : TensorShapes(config)) {
    if (entry.shape.size() == 2) matrices += entry.shape[0] * entry.shape[1];
    if (entry.shape.size() == 1) vectors += entry.shape[0];
  }
  ASSERT_EQ(groups.size(), 2u);
  EXPECT_EQ(groups[0].weight_decay, 0.1);
  EXPECT_EQ(groups[0].values[0].numel(), matrices);
  EXPECT_EQ(groups[1].weight_decay, 0);
  EXPECT_EQ(groups[1].values[0].numel(), vectors);
}

TEST(TrainFull, TheForecastCountsWhatTheRunReports) {
  for (const TrainingPath path : {TrainingPath::kFast, TrainingPath::kReference}) {
    TrainingJob job = Full(TinyJob());
    job.recipe.path = path;
    ASSERT_OK_AND_ASSIGN(const RunForecast forecast, ForecastRun(job));
    ASSERT_OK_AND_ASSIGN(const TrainedBase trained, Train(job));
    EXPECT_EQ(forecast.total_steps, static_cast<int64_t>(trained.history.size()));
    EXPECT_EQ(forecast.flops, trained.total_flops);
    EXPECT_EQ(forecast.trainable_parameters, CountParameters(job.base->config));
    EXPECT_EQ(forecast.memory.weights, 4 * forecast.trainable_parameters);
    EXPECT_EQ(forecast.memory.optimiser, 16 * forecast.trainable_parameters);
    // The weights' gradients cost the products with them a third time.
    job.recipe.method = TrainingMethod::kLora;
    ASSERT_OK_AND_ASSIGN(const RunForecast adapter, ForecastRun(job));
    EXPECT_GT(forecast.flops, 1.4 * adapter.flops);
    EXPECT_LT(forecast.flops, 1.5 * adapter.flops);
  }
}

TEST(TrainFull, RefusesWhatItDoesNotCompute) {
  struct Row {
    std::string name;
    std::function<void(TrainingJob&)> change;
    std::string message;
  };
  const Row rows[] = {
      {"rank", [](TrainingJob& j) { j.recipe.rank = 8; }, "recipe.rank: the method 'full'"},
      {"targets", [](TrainingJob& j) { j.recipe.target_modules = {"q_proj"}; },
       "recipe.target_modules: the method 'full'"},
      {"saved modules", [](TrainingJob& j) { j.recipe.modules_to_save = {"norm"}; },
       "recipe.modules_to_save: the method 'full'"},
      {"few bits", [](TrainingJob& j) { j.recipe.base_weights = WeightStorage::kInt8; },
       "recipe.base_weights: int8"},
      {"bf16", [](TrainingJob& j) { j.recipe.precision = TrainingPrecision::kBf16; },
       "recipe.precision: bf16"},
      {"a base of few bits",
       [](TrainingJob& j) {
         j.base = std::make_shared<const LlamaWeights>(CompactCopy(*j.base, WeightStorage::kInt8));
       },
       "the base was loaded as int8"},
      {"an adapter to start from",
       [](TrainingJob& j) { j.init = testing::RandomAdapter(j.base->config, 4, 1); },
       "an adapter to start from was given"},
      {"a teacher's hidden states",
       [](TrainingJob& j) { j.recipe.objective.kind = ObjectiveKind::kDistill; },
       "recipe.distill_top_k: 0"},
      {"another method", [](TrainingJob& j) { j.recipe.method = TrainingMethod::kLora; },
       "recipe.method: lora where full"},
  };
  for (const Row& row : rows) {
    SCOPED_TRACE(row.name);
    TrainingJob job = Full(TinyJob());
    row.change(job);
    EXPECT_THAT(Train(job), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(row.message)));
  }
}

TEST(TrainFull, AdaptersAreTrainedElsewhere) {
  const TrainingJob job = Full(TinyJob());
  EXPECT_THAT(testing::Train(job), StatusIs(absl::StatusCode::kInvalidArgument,
                                            HasSubstr("recipe.method: full where lora")));
  ASSERT_OK_AND_ASSIGN(const auto trainer, ResidentTrainer::Create(job.base, {}));
  FakeClock clock;
  const std::vector<JobOutcome> outcomes =
      trainer->RunAll({{.name = "full", .job = job}}, PosixFileSystem(), clock, {});
  EXPECT_THAT(outcomes.front().trained,
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("recipe.method full")));
}

}  // namespace
}  // namespace evolora
