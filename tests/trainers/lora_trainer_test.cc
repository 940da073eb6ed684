#include "evolora/trainers/lora_trainer.h"

#include <cmath>
#include <memory>
#include <string>
#include <vector>

#include "ATen/ops/mm.h"
#include "ATen/ops/randn.h"
#include "ATen/ops/tensor.h"
#include "evolora/core/random.h"
#include "evolora/model/compact_weights.h"
#include "evolora/model/llama_weights.h"
#include "evolora/model/reference_forward.h"
#include "head_loss.h"
#include "model/random_model.h"
#include "residual_start.h"
#include "support/failing_file_system.h"
#include "support/fake_clock.h"
#include "support/status_matchers.h"
#include "support/temp_dir.h"

namespace evolora {
namespace {

using ::evolora::testing::FakeClock;
using ::evolora::testing::StatusIs;
using ::evolora::testing::TempDir;
using ::testing::HasSubstr;

TrainingJob TinyJob(int64_t num_rows = 12) {
  TrainingJob job;
  const LlamaConfig config = testing::SmallConfig();
  job.base = testing::RandomWeights(config, 7);
  job.base_name = "tiny";
  job.base_weights_fingerprint = "tiny-7";
  Random random(5);
  for (int64_t i = 0; i < num_rows; ++i) {
    TrainingRow row;
    const uint64_t length = 4 + random.NextBelow(6);
    for (uint64_t t = 0; t < length; ++t) {
      row.ids.push_back(
          static_cast<TokenId>(random.NextBelow(static_cast<uint64_t>(config.vocab_size))));
      row.labels.push_back(t < 2 ? kIgnoreLabel : row.ids.back());
    }
    job.rows.push_back(row);
  }
  job.recipe.rank = 4;
  job.recipe.alpha = 8;
  job.recipe.learning_rate = 1e-2;
  job.recipe.epochs = 3;
  job.recipe.rows_per_step = 4;
  job.recipe.checkpoint_every_steps = 2;
  return job;
}

absl::StatusOr<TrainedAdapter> Train(const TrainingJob& job, const TrainOptions& options = {},
                                     std::stop_token stop = {}) {
  FakeClock clock;
  return TrainLora(job, options, PosixFileSystem(), clock, stop);
}

TEST(TrainLora, LossFallsAndEveryModuleLearns) {
  TrainingJob job = TinyJob();
  job.recipe.epochs = 20;
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter trained, Train(job));
  ASSERT_EQ(trained.history.size(), 60u);
  EXPECT_LT(trained.history.back().loss, 0.7 * trained.history.front().loss);
  EXPECT_EQ(trained.adapter.modules.size(), LinearModulePaths(job.base->config).size());
  for (const LoraModule& module : trained.adapter.modules) {
    double largest = 0;
    for (const float b : module.b) largest = std::max(largest, std::abs(static_cast<double>(b)));
    EXPECT_GT(largest, 0) << module.path;
    EXPECT_DOUBLE_EQ(module.scale, 2.0);
  }
}

TEST(TrainLora, SameJobGivesTheSameBytes) {
  const TrainingJob job = TinyJob();
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter first, Train(job));
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter second, Train(job));
  EXPECT_EQ(AdapterDigest(first.adapter), AdapterDigest(second.adapter));
}

TEST(TrainLora, MicroBatchingDoesNotChangeTheStep) {
  TrainingJob whole = TinyJob();
  whole.recipe.tokens_per_micro_batch = 1000;
  TrainingJob cut = whole;
  cut.recipe.tokens_per_micro_batch = 1;
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter a, Train(whole));
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter b, Train(cut));
  for (size_t i = 0; i < a.history.size(); ++i) {
    EXPECT_NEAR(a.history[i].loss, b.history[i].loss, 1e-5 * a.history[i].loss) << "step " << i;
    EXPECT_NEAR(a.history[i].grad_norm, b.history[i].grad_norm, 1e-4 * a.history[i].grad_norm);
  }
}

TEST(TrainLora, BothPathsTakeTheSameSteps) {
  const TrainingJob fast = TinyJob();
  TrainingJob reference = fast;
  reference.recipe.path = TrainingPath::kReference;
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter a, Train(fast));
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter b, Train(reference));
  for (size_t i = 0; i < a.history.size(); ++i) {
    EXPECT_NEAR(a.history[i].loss, b.history[i].loss, 1e-5 * b.history[i].loss) << "step " << i;
    EXPECT_NEAR(a.history[i].grad_norm, b.history[i].grad_norm, 1e-4 * b.history[i].grad_norm);
  }
}

TEST(TrainLora, ABaseInFewBitsIsLoadedOrMadeAndTakesTheSameStepsOnBothPaths) {
  for (const WeightStorage storage :
       {WeightStorage::kBf16, WeightStorage::kInt8, WeightStorage::kQ4}) {
    SCOPED_TRACE(WeightStorageName(storage));
    TrainingJob job = TinyJob();
    job.recipe.base_weights = storage;
    ASSERT_OK_AND_ASSIGN(const TrainedAdapter made, Train(job));
    job.base = std::make_shared<const LlamaWeights>(CompactCopy(*job.base, storage));
    ASSERT_OK_AND_ASSIGN(const TrainedAdapter loaded, Train(job));
    EXPECT_EQ(AdapterDigest(made.adapter), AdapterDigest(loaded.adapter));
    job.recipe.path = TrainingPath::kReference;
    ASSERT_OK_AND_ASSIGN(const TrainedAdapter reference, Train(job));
    for (size_t i = 0; i < made.history.size(); ++i) {
      EXPECT_NEAR(made.history[i].loss, reference.history[i].loss, 1e-5 * made.history[i].loss);
    }
    job.recipe.base_weights = WeightStorage::kFp32;
    EXPECT_THAT(Train(job).status(),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("the base was loaded as")));
  }
}

TEST(TrainLora, SavedModulesLearnAndGoOnFromWhereTheyWere) {
  TrainingJob job = TinyJob();
  job.recipe.modules_to_save = {"lm_head", "norm"};
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter trained, Train(job));
  ASSERT_EQ(trained.adapter.saved_modules.size(), 8u);  // the head, and 7 norms of 3 layers
  for (const SavedModule& module : trained.adapter.saved_modules) {
    const at::Tensor own = FindReplaceable(*job.base, module.path);
    const float* from = own.const_data_ptr<float>();
    EXPECT_NE(module.weight, std::vector<float>(from, from + own.numel())) << module.path;
  }
  job.init = trained.adapter;
  job.recipe.learning_rate = 0;
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter same, Train(job));
  EXPECT_EQ(AdapterDigest(same.adapter), AdapterDigest(trained.adapter));
  EXPECT_LT(same.history.front().loss, trained.history.front().loss);
  job.recipe.modules_to_save = {"norm"};
  EXPECT_THAT(Train(job).status(), StatusIs(absl::StatusCode::kInvalidArgument,
                                            HasSubstr("it saves lm_head as a whole")));
  job.init.reset();
  job.recipe.modules_to_save = {"up_proj"};
  EXPECT_THAT(Train(job).status(), StatusIs(absl::StatusCode::kInvalidArgument,
                                            HasSubstr("a linear layer of the decoder")));
  job.recipe.modules_to_save = {"score"};
  EXPECT_THAT(Train(job).status(),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("'score' matches neither")));
}

TEST(TrainLora, StoppedAndResumedGivesTheBytesOfTheUnbrokenRun) {
  const TrainingJob job = TinyJob();
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter unbroken, Train(job));
  for (const int64_t stop_after : {1, 2, 5, 8}) {
    SCOPED_TRACE(stop_after);
    const TempDir work;
    std::stop_source stop;
    const TrainOptions stopping{.work_dir = work.path(), .on_step = [&](const StepReport& step) {
                                  if (step.step == stop_after) stop.request_stop();
                                }};
    ASSERT_THAT(Train(job, stopping, stop.get_token()),
                StatusIs(absl::StatusCode::kCancelled, HasSubstr("stopped after step")));
    int64_t steps_taken = 0;
    const TrainOptions resuming{.work_dir = work.path(),
                                .resume = true,
                                .on_step = [&](const StepReport&) { ++steps_taken; }};
    ASSERT_OK_AND_ASSIGN(const TrainedAdapter resumed, Train(job, resuming));
    EXPECT_EQ(steps_taken, 9 - stop_after);
    EXPECT_EQ(AdapterDigest(resumed.adapter), AdapterDigest(unbroken.adapter));
    ASSERT_EQ(resumed.history.size(), unbroken.history.size());
    for (size_t i = 0; i < resumed.history.size(); ++i) {
      EXPECT_EQ(resumed.history[i].loss, unbroken.history[i].loss);
    }
  }
}

// The rows of TinyJob, each preferred to another end of its own.
TrainingJob TinyDpoJob() {
  TrainingJob job = TinyJob();
  for (TrainingRow& row : job.rows) {
    row.counterpart = {.ids = row.ids, .labels = row.labels};
    for (size_t t = 2; t < row.ids.size(); ++t) {
      row.counterpart.ids[t] = row.counterpart.labels[t] = (row.ids[t] + 5) % 37;
    }
  }
  job.recipe.objective.kind = ObjectiveKind::kDpo;
  return job;
}

TEST(TrainLora, PreferencesAreLearnt) {
  TrainingJob job = TinyDpoJob();
  job.recipe.epochs = 20;
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter trained, Train(job));
  EXPECT_NEAR(trained.history.front().loss, std::log(2.0), 1e-6);
  EXPECT_NEAR(trained.history.front().figures.at("reward_margin"), 0, 1e-6);
  EXPECT_LT(trained.history.back().loss, 0.5);
  EXPECT_GT(trained.history.back().figures.at("reward_margin"), 0.3);
}

TEST(TrainLora, FiguresAndFrozenPassesSurviveAResume) {
  TrainingJob job = TinyDpoJob();
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter start, Train(job));
  job.init = start.adapter;
  job.recipe.objective.reference = FrozenModel::kInit;
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter unbroken, Train(job));
  const TempDir work;
  std::stop_source stop;
  const TrainOptions stopping{.work_dir = work.path(), .on_step = [&](const StepReport& step) {
                                if (step.step == 5) stop.request_stop();
                              }};
  ASSERT_THAT(Train(job, stopping, stop.get_token()),
              StatusIs(absl::StatusCode::kCancelled, HasSubstr("stopped after step 5")));
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter resumed,
                       Train(job, {.work_dir = work.path(), .resume = true}));
  EXPECT_EQ(AdapterDigest(resumed.adapter), AdapterDigest(unbroken.adapter));
  ASSERT_EQ(resumed.history.size(), unbroken.history.size());
  for (size_t i = 0; i < resumed.history.size(); ++i) {
    EXPECT_EQ(resumed.history[i].figures, unbroken.history[i].figures) << i;
  }
}

TEST(TrainLora, FrozenPassesCanBeStoppedAndNeedTheirModel) {
  TrainingJob job = TinyDpoJob();
  std::stop_source stop;
  stop.request_stop();
  EXPECT_THAT(Train(job, {}, stop.get_token()),
              StatusIs(absl::StatusCode::kCancelled, HasSubstr("frozen model")));
  job.recipe.objective.reference = FrozenModel::kInit;
  EXPECT_THAT(Train(job),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("recipe.reference: init")));
}

TEST(TrainLora, CheckpointOfAnotherJobIsRefused) {
  const TempDir work;
  TrainingJob job = TinyJob();
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter done, Train(job, {.work_dir = work.path()}));
  job.recipe.learning_rate *= 2;
  EXPECT_THAT(Train(job, {.work_dir = work.path(), .resume = true}),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("another job")));
}

TEST(TrainLora, FailedCheckpointWriteKeepsTheLastOne) {
  const TempDir work;
  const TrainingJob job = TinyJob();
  FakeClock clock;
  testing::FailingFileSystem failing(PosixFileSystem());
  failing.FailAt(3, absl::ResourceExhaustedError("disk full"));  // folder, checkpoint, then this
  const TrainOptions options{.work_dir = work.path()};
  ASSERT_THAT(TrainLora(job, options, failing, clock, {}),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("disk full")));
  int64_t first_step = 0;
  const TrainOptions resuming{
      .work_dir = work.path(), .resume = true, .on_step = [&](const StepReport& step) {
        if (first_step == 0) first_step = step.step;
      }};
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter resumed, Train(job, resuming));
  EXPECT_EQ(first_step, 3);
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter unbroken, Train(job));
  EXPECT_EQ(AdapterDigest(resumed.adapter), AdapterDigest(unbroken.adapter));
}

TEST(TrainLora, StartsFromAGivenAdapter) {
  TrainingJob job = TinyJob();
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter first, Train(job));
  job.init = first.adapter;
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter second, Train(job));
  EXPECT_LT(second.history.front().loss, first.history.front().loss);
  job.recipe.rank = 3;
  EXPECT_THAT(Train(job), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("of rank 3")));
}

TEST(TrainLora, MagnitudesLearnAndGoOnFromWhereTheyWere) {
  TrainingJob job = TinyJob();
  job.recipe.use_dora = true;
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter first, Train(job));
  ASSERT_TRUE(HasMagnitudes(first.adapter));
  for (const LoraModule& module : first.adapter.modules) {
    const at::Tensor norms = FindLinear(*job.base, module.path).norm(2, 1);
    double moved = 0;
    for (int64_t o = 0; o < norms.numel(); ++o) {
      moved +=
          std::abs(norms.const_data_ptr<float>()[o] - module.magnitude[static_cast<size_t>(o)]);
    }
    EXPECT_GT(moved, 1e-3) << module.path;
  }
  job.init = first.adapter;
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter second, Train(job));
  EXPECT_LT(second.history.front().loss, first.history.front().loss);
  job.recipe.use_dora = false;
  EXPECT_THAT(Train(job), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("use_dora")));
}

TEST(TrainLora, ADoraStartsAtTheFunctionOfAGivenPlainAdapter) {
  TrainingJob job = TinyJob();
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter plain, Train(job));
  job.init = plain.adapter;
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter second, Train(job));
  job.recipe.use_dora = true;
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter dora, Train(job));
  EXPECT_NEAR(dora.history.front().loss, second.history.front().loss, 1e-5);
}

TEST(TrainLora, ARowWithoutDirectionHasNoMagnitude) {
  TrainingJob job = TinyJob();
  job.recipe.use_dora = true;
  auto weights = std::make_shared<LlamaWeights>(*job.base);
  weights->layers[1].up = weights->layers[1].up.clone();
  weights->layers[1].up[5].zero_();
  job.base = weights;
  EXPECT_THAT(Train(job), StatusIs(absl::StatusCode::kInvalidArgument,
                                   HasSubstr("row 5 of model.layers.1.mlp.up_proj is zero")));
}

at::Tensor Logits(const LlamaWeights& weights, const LoraAdapter& adapter,
                  const std::vector<TokenId>& ids) {
  const auto lora = LoraTensorsFromAdapter(weights.config, adapter);
  EXPECT_TRUE(lora.ok()) << lora.status();
  const auto batch = PadRight(std::vector<std::vector<TokenId>>{ids});
  const auto logits = ReferenceLogits(weights, &*lora, *batch);
  EXPECT_TRUE(logits.ok()) << logits.status();
  return *logits;
}

double Gap(const at::Tensor& x, const at::Tensor& y) { return x.sub(y).abs().max().item<double>(); }

// The rows of A and columns of B that training moved: the first half of the exported ones.
LoraAdapter FirstHalf(LoraAdapter adapter) {
  for (LoraModule& m : adapter.modules) {
    m.a.resize(m.a.size() / 2);
    std::vector<float> b;
    for (int64_t i = 0; i < m.out_features * m.rank; ++i) {
      if (i % m.rank < m.rank / 2) b.push_back(m.b[static_cast<size_t>(i)]);
    }
    m.b = b;
    m.rank /= 2;
  }
  return adapter;
}

TEST(TrainLora, AnAdapterTakenOutOfTheBaseComesBackAsPlainLora) {
  for (const LoraInit init : {LoraInit::kPissa, LoraInit::kOlora}) {
    SCOPED_TRACE(static_cast<int>(init));
    TrainingJob job = TinyJob();
    job.recipe.init_lora_weights = init;
    job.recipe.use_rslora = true;
    job.recipe.rank_pattern = {{"q_proj", 2}, {"up_proj", 7}};
    ASSERT_OK_AND_ASSIGN(const ResidualStart start, MakeResidualStart(*job.base, job.recipe));
    ASSERT_OK_AND_ASSIGN(const TrainedAdapter trained, Train(job));
    const std::vector<TokenId>& ids = job.rows[0].ids;
    const at::Tensor untouched = Logits(*job.base, trained.adapter, ids);
    const at::Tensor residual = Logits(*start.base, FirstHalf(trained.adapter), ids);
    EXPECT_LT(Gap(untouched, residual), 1e-4);
    EXPECT_LT(trained.history.back().loss, trained.history.front().loss);

    job.recipe.learning_rate = 0;
    ASSERT_OK_AND_ASSIGN(const TrainedAdapter still, Train(job));
    const at::Tensor base = Logits(*job.base, still.adapter, ids);
    EXPECT_LT(Gap(base, Logits(*start.base, start.adapter, ids)), 1e-4);
    EXPECT_GT(Gap(base, untouched), 1e-2);
  }
}

TEST(TrainLora, AStartTakenOutOfTheBaseAndDropoutAreTheSameOnResume) {
  TrainingJob job = TinyJob();
  job.recipe.init_lora_weights = LoraInit::kPissa;
  job.recipe.lora_dropout = 0.2;
  TempDir dir;
  TrainOptions options{.work_dir = dir.Join("work"), .resume = true};
  std::stop_source stop;
  options.on_step = [&](const StepReport& report) {
    if (report.step == 4) stop.request_stop();
  };
  EXPECT_THAT(Train(job, options, stop.get_token()),
              StatusIs(absl::StatusCode::kCancelled, ::testing::_));
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter resumed, Train(job, options));
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter unbroken, Train(job));
  EXPECT_EQ(AdapterDigest(resumed.adapter), AdapterDigest(unbroken.adapter));
}

TEST(TrainLora, AStartThatTheRunWouldIgnoreIsRefused) {
  TrainingJob job = TinyJob();
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter first, Train(job));
  job.init = first.adapter;
  job.recipe.init_lora_weights = LoraInit::kPissa;
  EXPECT_THAT(Train(job), StatusIs(absl::StatusCode::kInvalidArgument,
                                   HasSubstr("starts from a given adapter")));
}

TEST(TrainLora, TheDevicePathRefusesWhatItDoesNotCompute) {
  for (const char* key : {"use_dora", "lora_dropout"}) {
    TrainingJob job = TinyJob();
    job.recipe.path = TrainingPath::kDevice;
    job.recipe.use_dora = key == std::string("use_dora");
    job.recipe.lora_dropout = job.recipe.use_dora ? 0 : 0.1;
    EXPECT_THAT(Train(job), StatusIs(absl::StatusCode::kUnimplemented, HasSubstr(key)));
  }
}

TEST(TrainLora, RefusesTargetsThatMatchNothingAndRanksAboveTheLayer) {
  TrainingJob job = TinyJob();
  job.recipe.target_modules = {"q_proj", "w1"};
  EXPECT_THAT(Train(job), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("'w1'")));
  job.recipe.target_modules = {"q_proj"};
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter trained, Train(job));
  EXPECT_EQ(trained.adapter.modules.size(), static_cast<size_t>(job.base->config.num_layers));
  job.recipe.rank = 500;
  EXPECT_THAT(Train(job), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("rank 500")));
}

TEST(TrainLora, NonFiniteLossAborts) {
  TrainingJob job = TinyJob();
  job.recipe.learning_rate = 10;
  job.recipe.max_grad_norm = 0;
  job.recipe.epochs = 400;
  job.recipe.schedule = LearningRateSchedule::kConstant;
  LoraAdapter huge;
  {
    TrainingJob start = TinyJob();
    ASSERT_OK_AND_ASSIGN(const TrainedAdapter trained, Train(start));
    huge = trained.adapter;
    for (LoraModule& module : huge.modules) {
      for (float& b : module.b) b *= 1e30f;
    }
  }
  job.init = huge;
  EXPECT_THAT(Train(job), StatusIs(absl::StatusCode::kAborted, HasSubstr("step 1")));
}

// The chunked head against autograd's plain formula.
TEST(ChunkedHeadLoss, EqualsTheUnchunkedLossAndItsGradient) {
  const at::Tensor hidden = at::randn({37, 8}, at::kFloat).requires_grad_();
  const at::Tensor head = at::randn({19, 8}, at::kFloat);
  std::vector<int64_t> labels;
  for (int64_t i = 0; i < 37; ++i) labels.push_back(i % 19);
  const at::Tensor targets = at::tensor(labels, at::kLong);
  const at::Tensor loss =
      at::mm(hidden, head.t()).log_softmax(1).gather(1, targets.unsqueeze(1)).sum().neg();
  loss.backward();
  const HeadLoss chunked = ChunkedHeadLoss(hidden.detach(), head, targets, 0.5, 10);
  EXPECT_NEAR(chunked.loss_sum, loss.item<double>(), 1e-3);
  EXPECT_LT(chunked.grad_hidden.sub(hidden.grad(), 0.5).abs().max().item<double>(), 1e-5);
}

}  // namespace
}  // namespace evolora
