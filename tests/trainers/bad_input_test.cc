// What a run does with input, disks and deaths it cannot work with: it says so, and the last
// checkpoint stays as it was. A run that dies anywhere ends, resumed, like the unbroken one.
#include <cmath>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "ATen/core/Tensor.h"
#include "evolora/core/random.h"
#include "evolora/data/array_file.h"
#include "evolora/trainers/lora_trainer.h"
#include "model/random_model.h"
#include "support/failing_file_system.h"
#include "support/fake_clock.h"
#include "support/status_matchers.h"
#include "support/temp_dir.h"

namespace evolora {
namespace {

using ::evolora::testing::CrashPoint;
using ::evolora::testing::FailingFileSystem;
using ::evolora::testing::FakeClock;
using ::evolora::testing::IsOk;
using ::evolora::testing::StatusIs;
using ::evolora::testing::TempDir;
using ::testing::HasSubstr;

constexpr int64_t kSteps = 6;

// Six steps of four rows, a checkpoint every second one.
TrainingJob Job() {
  TrainingJob job;
  job.base = testing::RandomWeights(testing::SmallConfig(), 7);
  job.base_name = "tiny";
  job.base_weights_fingerprint = "tiny-7";
  Random random(5);
  for (int64_t i = 0; i < 12; ++i) {
    TrainingRow row;
    for (uint64_t t = 0, length = 4 + random.NextBelow(5); t < length; ++t) {
      row.ids.push_back(static_cast<TokenId>(random.NextBelow(37)));
      row.labels.push_back(t < 2 ? kIgnoreLabel : row.ids.back());
    }
    job.rows.push_back(row);
  }
  job.recipe.rank = 4;
  job.recipe.learning_rate = 1e-2;
  job.recipe.epochs = 2;
  job.recipe.rows_per_step = 4;
  job.recipe.checkpoint_every_steps = 2;
  return job;
}

TrainOptions Options(const TempDir& folder, bool resume) {
  return {.work_dir = folder.path() + "/work",
          .resume = resume,
          .metrics_dir = folder.path() + "/metrics"};
}

absl::StatusOr<TrainedAdapter> Train(const TrainingJob& job, const TrainOptions& options,
                                     FileSystem& files = PosixFileSystem(),
                                     std::stop_token stop = {}) {
  const FakeClock clock;
  return TrainLora(job, options, files, clock, stop);
}

std::string Checkpoint(const TempDir& folder) {
  return PosixFileSystem().ReadFile(folder.path() + "/work/checkpoint.h5", 1 << 24).value_or("");
}

const TrainedAdapter& Unbroken() {
  static const TrainedAdapter* const trained = new TrainedAdapter(*Train(Job(), TrainOptions{}));
  return *trained;
}

// Resumes in `folder` and compares with the unbroken run: adapter, losses, each step's curve once.
void ExpectResumedEqualsUnbroken(const TempDir& folder) {
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter resumed, Train(Job(), Options(folder, true)));
  EXPECT_EQ(AdapterDigest(resumed.adapter), AdapterDigest(Unbroken().adapter));
  EXPECT_EQ(resumed.total_flops, Unbroken().total_flops);
  ASSERT_EQ(resumed.history.size(), static_cast<size_t>(kSteps));
  ASSERT_OK_AND_ASSIGN(const ArrayFile file,
                       ReadArrayFile(PosixFileSystem(), folder.path() + "/metrics/metrics.h5"));
  ASSERT_OK_AND_ASSIGN(const auto steps, file.Values<int64_t>("step"));
  ASSERT_OK_AND_ASSIGN(const auto losses, file.Values<double>("loss"));
  ASSERT_EQ(steps.size(), static_cast<size_t>(kSteps));
  for (size_t i = 0; i < steps.size(); ++i) {
    EXPECT_EQ(steps[i], static_cast<int64_t>(i) + 1);
    EXPECT_EQ(losses[i], Unbroken().history[i].loss);
    EXPECT_EQ(resumed.history[i].loss, Unbroken().history[i].loss);
    EXPECT_EQ(resumed.history[i].grad_norm, Unbroken().history[i].grad_norm);
  }
}

TEST(BadInput, IsRefusedAndTheCheckpointStays) {
  struct Case {
    const char* name;
    std::function<void(TrainingJob&)> spoil;
    absl::StatusCode code;
    const char* message;
  };
  constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;
  const auto nan_adapter = [](TrainingJob& job) {
    job.init = Unbroken().adapter;
    job.init->modules[1].b[0] = NAN;
  };
  const auto nan_weights = [](TrainingJob& job) {
    auto weights = testing::RandomWeights(job.base->config, 7);
    weights->layers[1].up.mutable_data_ptr<float>()[3] = NAN;
    job.base = weights;
    job.base_weights_fingerprint = "spoiled";
  };
  const std::vector<Case> cases = {
      {"empty data set", [](TrainingJob& job) { job.rows.clear(); }, kInvalid, "0 rows"},
      {"a row longer than the context",
       [](TrainingJob& job) {
         const auto length = static_cast<size_t>(job.base->config.max_positions) + 1;
         job.recipe.max_row_tokens = 1 << 20;
         job.rows[7].ids.assign(length, 1);
         job.rows[7].labels.assign(length, 1);
       },
       kInvalid, "row 7: "},
      {"a label outside the vocabulary", [](TrainingJob& job) { job.rows[3].labels[3] = 37; },
       kInvalid, "row 3: labels[3] is 37, the vocabulary has 37 ids"},
      {"an id outside the vocabulary", [](TrainingJob& job) { job.rows[3].ids[0] = -5; }, kInvalid,
       "row 3: ids[0] is -5"},
      {"a rank above the layer", [](TrainingJob& job) { job.recipe.rank = 300; }, kInvalid,
       "recipe.rank 300 exceeds layer model.layers.0.self_attn.q_proj of"},
      {"NaN in the adapter to start from", nan_adapter, kInvalid, "B[0] is not finite"},
      {"NaN in a weight", nan_weights, absl::StatusCode::kAborted, "step 1: loss nan"},
  };
  const TempDir folder;
  std::stop_source stop;
  TrainOptions stopping = Options(folder, false);
  stopping.on_step = [&](const StepReport& step) {
    if (step.step == 3) stop.request_stop();
  };
  ASSERT_THAT(Train(Job(), stopping, PosixFileSystem(), stop.get_token()),
              StatusIs(absl::StatusCode::kCancelled, HasSubstr("after step 3")));
  const std::string checkpoint = Checkpoint(folder);
  ASSERT_FALSE(checkpoint.empty());
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    TrainingJob job = Job();
    c.spoil(job);
    TrainOptions options = Options(folder, false);
    options.metrics_dir.clear();
    EXPECT_THAT(Train(job, options), StatusIs(c.code, HasSubstr(c.message)));
    EXPECT_EQ(Checkpoint(folder), checkpoint);
  }
  ExpectResumedEqualsUnbroken(folder);
}

TEST(FullDisk, AtAnyWriteKeepsTheLastCheckpoint) {
  bool failed = true;
  for (int n = 1; failed; ++n) {
    SCOPED_TRACE(n);
    const TempDir folder;
    std::string before;  // the last checkpoint that was written
    FailingFileSystem failing(PosixFileSystem());
    failing.FailAt(n, absl::ResourceExhaustedError("write: no space left on device"));
    TrainOptions options = Options(folder, false);
    options.on_step = [&](const StepReport&) { before = Checkpoint(folder); };
    const auto trained = Train(Job(), options, failing);
    failed = !trained.ok();
    if (!failed) break;
    EXPECT_THAT(trained, StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("no space")));
    const std::string after = Checkpoint(folder);
    // The write of the metrics comes after the checkpoint's.
    if (after != before) {
      EXPECT_THAT(ReadArrayFile(PosixFileSystem(), folder.path() + "/work/checkpoint.h5"), IsOk());
    }
    ExpectResumedEqualsUnbroken(folder);
  }
}

TEST(Death, AfterAnyStepResumesToTheSameBytes) {
  for (int64_t last = 1; last <= kSteps; ++last) {
    SCOPED_TRACE(last);
    const TempDir folder;
    FailingFileSystem dying(PosixFileSystem());
    TrainOptions options = Options(folder, false);
    options.on_step = [&](const StepReport& step) {
      if (step.step == last) dying.CrashAt(dying.num_mutations() + 1, CrashPoint::kBefore);
    };
    EXPECT_THAT(Train(Job(), options, dying),
                StatusIs(absl::StatusCode::kUnavailable, HasSubstr("crashed")));
    ExpectResumedEqualsUnbroken(folder);
  }
}

TEST(Death, InAnyWriteResumesToTheSameBytes) {
  for (const CrashPoint point : {CrashPoint::kBefore, CrashPoint::kTorn, CrashPoint::kAfter}) {
    bool died = true;
    for (int n = 1; died; ++n) {
      SCOPED_TRACE(n);
      const TempDir folder;
      FailingFileSystem dying(PosixFileSystem());
      dying.CrashAt(n, point);
      const auto trained = Train(Job(), Options(folder, false), dying);
      died = dying.crashed();
      ExpectResumedEqualsUnbroken(folder);
    }
  }
}

TEST(Death, AgainAndAgainStillEndsTheSame) {
  const TempDir folder;
  for (int64_t n = 1; n <= 40; ++n) {
    FailingFileSystem dying(PosixFileSystem());
    dying.CrashAt(static_cast<int>(1 + n * 7 % 11), CrashPoint::kTorn);
    if (Train(Job(), Options(folder, true), dying).ok()) break;
  }
  ExpectResumedEqualsUnbroken(folder);
}

}  // namespace
}  // namespace evolora
