#pragma once

#include <algorithm>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "evolora/core/random.h"
#include "evolora/trainers/resident_trainer.h"
#include "model/random_model.h"
#include "support/fake_clock.h"
#include "support/status_matchers.h"

// Jobs of a resident trainer, and what they are held against: the same jobs alone.
namespace evolora::testing {

// Wide enough for rank 64, with odd sizes elsewhere.
inline std::shared_ptr<const LlamaWeights> WideBase(int64_t width = 80, int64_t mlp_width = 70) {
  LlamaConfig config = SmallConfig();
  config.hidden_size = width;
  config.intermediate_size = mlp_width;
  config.num_kv_heads = 6;
  config.head_dim = 12;
  return RandomWeights(config, 7);
}

// Rows that begin with what the rows of every other job begin with.
inline std::vector<TrainingRow> RowsOf(const LlamaConfig& config, int64_t count, uint64_t seed) {
  const std::vector<TokenId> prefix = RandomIds(config, 6, 99);
  Random random(seed);
  std::vector<TrainingRow> rows;
  for (int64_t i = 0; i < count; ++i) {
    TrainingRow row{.ids = prefix};
    const auto length = static_cast<int64_t>(2 + random.NextBelow(20));
    for (const TokenId id : RandomIds(config, length, seed * 100 + static_cast<uint64_t>(i)))
      row.ids.push_back(id);
    row.labels = row.ids;
    std::fill_n(row.labels.begin(), 5 + random.NextBelow(3), kIgnoreLabel);
    rows.push_back(row);
  }
  return rows;
}

inline QueuedJob MakeJob(const std::shared_ptr<const LlamaWeights>& base, const std::string& name,
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
inline std::vector<QueuedJob> OddJobs(const std::shared_ptr<const LlamaWeights>& base) {
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
inline std::vector<QueuedJob> SpecialJobs(const std::shared_ptr<const LlamaWeights>& base) {
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

// Those that ask a frozen model, before the first step of others and between their steps.
inline std::vector<QueuedJob> FrozenModelJobs(const std::shared_ptr<const LlamaWeights>& base) {
  std::vector<QueuedJob> jobs = {MakeJob(base, "distill", 4, 8), MakeJob(base, "plain", 2, 9),
                                 MakeJob(base, "few tokens", 3, 6), MakeJob(base, "policy", 5, 8),
                                 MakeJob(base, "held to init", 2, 7)};
  for (const size_t i : {0, 2}) {
    ObjectiveSettings& objective = jobs[i].job.recipe.objective;
    objective.kind = ObjectiveKind::kDistill;
    objective.distill_top_k = i == 0 ? 0 : 5;
    objective.distill_temperature = 1.5;
    for (TrainingRow& row : jobs[i].job.rows) {
      row.counterpart = {.ids = row.ids, .labels = row.labels};
      row.counterpart.ids.insert(row.counterpart.ids.begin(), {3, 1, 4});
      row.counterpart.labels.insert(row.counterpart.labels.begin(), 3, kIgnoreLabel);
    }
  }
  for (const size_t i : {3, 4}) {
    ObjectiveSettings& objective = jobs[i].job.recipe.objective;
    objective.kind = ObjectiveKind::kPolicy;
    objective.policy_loss = i == 3 ? PolicyLoss::kGrpo : PolicyLoss::kCispo;
    objective.policy_kl_beta = i == 3 ? 0 : 0.2;
    for (size_t r = 0; r < jobs[i].job.rows.size(); ++r) {
      jobs[i].job.rows[r].sample.advantage = r % 2 == 0 ? 1.0 : -0.5;
    }
  }
  jobs[4].job.recipe.objective.reference = FrozenModel::kInit;
  jobs[4].job.init = RandomAdapter(base->config, 2, 5);
  return jobs;
}

inline std::vector<JobOutcome> RunAll(const std::shared_ptr<const LlamaWeights>& base,
                                      std::vector<QueuedJob> jobs,
                                      const ResidentLimits& limits = {}, std::stop_token stop = {},
                                      FileSystem& fs = PosixFileSystem(),
                                      const std::string& device = "cpu") {
  const FakeClock clock;
  auto trainer = ResidentTrainer::Create(base, limits, device);
  EXPECT_THAT(trainer.status(), IsOk());
  return (*trainer)->RunAll(std::move(jobs), fs, clock, stop);
}

inline absl::StatusOr<TrainedAdapter> Alone(const QueuedJob& queued) {
  const FakeClock clock;
  return TrainLora(queued.job, queued.options, PosixFileSystem(), clock, {});
}

inline void ExpectSameBytes(const JobOutcome& outcome, const TrainedAdapter& alone) {
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

inline void ExpectAllAsAlone(const std::vector<QueuedJob>& jobs,
                             const std::vector<JobOutcome>& outcomes) {
  ASSERT_EQ(outcomes.size(), jobs.size());
  for (size_t i = 0; i < jobs.size(); ++i) {
    EXPECT_EQ(outcomes[i].name, jobs[i].name);
    ASSERT_OK_AND_ASSIGN(const TrainedAdapter alone, Alone(jobs[i]));
    ExpectSameBytes(outcomes[i], alone);
  }
}

}  // namespace evolora::testing
