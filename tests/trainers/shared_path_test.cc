// One adapter trained by several ranks; ranks are threads here.
#include "shared_path.h"

#include <cmath>
#include <memory>
#include <stop_token>
#include <string>
#include <vector>

#include "evolora/core/clock.h"
#include "evolora/model/base_model.h"
#include "evolora/trainers/full_trainer.h"
#include "evolora/trainers/lora_trainer.h"
#include "model/random_model.h"
#include "support/status_matchers.h"
#include "support/temp_dir.h"
#include "trainers/rank_threads.h"

namespace evolora {
namespace {

using ::evolora::testing::OnRankThreads;
using ::evolora::testing::RandomIds;
using ::evolora::testing::RandomWeights;
using ::evolora::testing::SmallConfig;
using ::evolora::testing::StatusIs;
using ::evolora::testing::TempDir;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

TEST(ShareOf, CutsTheRowsIntoRunsThatDifferByOneRow) {
  const std::vector<int64_t> rows = {4, 8, 15, 16, 23};
  EXPECT_THAT(ShareOf(rows, 0, 2), ElementsAre(4, 8));
  EXPECT_THAT(ShareOf(rows, 1, 2), ElementsAre(15, 16, 23));
  EXPECT_THAT(ShareOf(rows, 0, 1), ElementsAre(4, 8, 15, 16, 23));
  EXPECT_THAT(ShareOf(rows, 0, 7), IsEmpty());
  EXPECT_THAT(ShareOf(rows, 6, 7), ElementsAre(23));
}

// Rows of unequal length; 5 a step do not divide by 2 or 4.
TrainingJob MakeJob() {
  const LlamaConfig config = SmallConfig();
  TrainingJob job{.base = RandomWeights(config, 7), .base_name = "small"};
  job.base_weights_fingerprint = std::string(64, 'a');
  for (uint64_t i = 0; i < 13; ++i) {
    TrainingRow row;
    row.ids = RandomIds(config, 6 + static_cast<int64_t>(i % 4) * 3, 100 + i);
    row.labels = row.ids;
    row.labels[1] = kIgnoreLabel;
    job.rows.push_back(std::move(row));
  }
  job.recipe.rank = 4;
  job.recipe.epochs = 3;
  job.recipe.rows_per_step = 5;
  job.recipe.replay_share = 0;
  job.recipe.learning_rate = 1e-2;
  return job;
}

using Outcome = absl::StatusOr<TrainedAdapter>;

// One outcome per rank. `stop_at` > 0: the last rank stops before that step.
std::vector<Outcome> TrainOn(int size, const std::string& work_dir, int64_t stop_at = 0,
                             bool resume = false) {
  std::vector<Outcome> outcomes(static_cast<size_t>(size), absl::UnknownError("not run"));
  OnRankThreads(size, [&](const ProcessGroupOptions& ranks) {
    const TrainingJob job = MakeJob();
    const auto group = JoinProcessGroup(ranks);
    ASSERT_TRUE(group.ok()) << group.status();
    std::stop_source stop;
    TrainOptions options{.work_dir = work_dir, .resume = resume, .group = group->get()};
    options.on_step = [&](const StepReport& step) {
      if (ranks.rank == size - 1 && step.step == stop_at) stop.request_stop();
    };
    outcomes[static_cast<size_t>(ranks.rank)] =
        TrainLora(job, options, PosixFileSystem(), SystemClock(), stop.get_token());
  });
  return outcomes;
}

TEST(SharedPath, AnyNumberOfRanksTakesTheSameSteps) {
  const TempDir folder;
  const Outcome alone = TrainLora(MakeJob(), {}, PosixFileSystem(), SystemClock(), {});
  ASSERT_TRUE(alone.ok()) << alone.status();
  ASSERT_EQ(alone->history.size(), 9u);
  for (const int size : {1, 2, 4}) {
    SCOPED_TRACE(size);
    const std::vector<Outcome> outcomes = TrainOn(size, folder.path() + std::to_string(size));
    for (const Outcome& rank : outcomes) {
      ASSERT_TRUE(rank.ok()) << rank.status();
      // Every rank holds the same adapter, bit for bit.
      EXPECT_EQ(AdapterDigest(rank->adapter), AdapterDigest(outcomes[0]->adapter));
      for (size_t i = 0; i < alone->history.size(); ++i) {
        EXPECT_NEAR(rank->history[i].loss, alone->history[i].loss, 1e-6 * alone->history[i].loss);
      }
    }
  }
}

TEST(SharedPath, RanksTrainABaseAsAWhole) {
  TrainingJob job = MakeJob();
  job.recipe = LoraRecipe{.method = TrainingMethod::kFull,
                          .learning_rate = 1e-3,
                          .rows_per_step = 5,
                          .replay_share = 0};
  ASSERT_OK_AND_ASSIGN(const TrainedBase alone,
                       TrainFull(job, {}, PosixFileSystem(), SystemClock(), {}));
  std::vector<absl::StatusOr<TrainedBase>> outcomes(2, absl::UnknownError("not run"));
  OnRankThreads(2, [&](const ProcessGroupOptions& ranks) {
    const auto group = JoinProcessGroup(ranks);
    ASSERT_TRUE(group.ok()) << group.status();
    outcomes[static_cast<size_t>(ranks.rank)] =
        TrainFull(job, {.group = group->get()}, PosixFileSystem(), SystemClock(), {});
  });
  std::vector<std::string> digests;
  for (const auto& rank : outcomes) {
    ASSERT_TRUE(rank.ok()) << rank.status();
    ASSERT_OK_AND_ASSIGN(digests.emplace_back(), WeightsFingerprint(*rank->weights));
    for (size_t i = 0; i < alone.history.size(); ++i) {
      EXPECT_NEAR(rank->history[i].loss, alone.history[i].loss, 1e-5 * alone.history[i].loss);
    }
  }
  EXPECT_EQ(digests[0], digests[1]);
}

TEST(SharedPath, ALostRankLeavesACheckpointFromWhichAllGoOn) {
  const TempDir folder;
  const std::vector<Outcome> whole = TrainOn(2, folder.path() + "/whole");
  ASSERT_TRUE(whole[0].ok()) << whole[0].status();
  const std::string broken = folder.path() + "/broken";
  const std::vector<Outcome> cut = TrainOn(2, broken, /*stop_at=*/4);
  EXPECT_THAT(cut[0].status(), StatusIs(absl::StatusCode::kUnavailable,
                                        HasSubstr("rank 0 of 2: another rank is lost")));
  EXPECT_THAT(cut[1].status(), StatusIs(absl::StatusCode::kCancelled, HasSubstr("after step 4")));
  const std::vector<Outcome> rest = TrainOn(2, broken, /*stop_at=*/0, /*resume=*/true);
  ASSERT_TRUE(rest[0].ok()) << rest[0].status();
  EXPECT_EQ(AdapterDigest(rest[0]->adapter), AdapterDigest(whole[0]->adapter));
  ASSERT_EQ(rest[0]->history.size(), whole[0]->history.size());
  for (size_t i = 0; i < rest[0]->history.size(); ++i) {
    EXPECT_EQ(rest[0]->history[i].loss, whole[0]->history[i].loss);
  }
}

}  // namespace
}  // namespace evolora
