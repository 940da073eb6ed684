// The device path on a CUDA device against the autograd reference on the CPU. Built with
// EVOLORA_CUDA; skips without a device.
#include <cmath>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "ATen/ATen.h"
#include "absl/strings/str_cat.h"
#include "c10/core/DeviceGuard.h"
#include "c10/cuda/CUDAFunctions.h"
#include "device/device_optimizer.h"
#include "device/device_path.h"
#include "device/device_stream.h"
#include "device/graph_cache.h"
#include "device/open_device.h"
#include "evolora/adapters/lora_adapter.h"
#include "evolora/core/clock.h"
#include "evolora/core/file_system.h"
#include "evolora/trainers/full_trainer.h"
#include "evolora/trainers/lora_trainer.h"
#include "evolora/trainers/process_group.h"
#include "gtest/gtest.h"
#include "support/status_matchers.h"
#include "trainers/device_cases.h"
#include "trainers/rank_threads.h"
#include "trainers/resident_jobs.h"

namespace evolora {
namespace {

using testing::AdapterCases;
using testing::ArchitectureCases;
using testing::Case;
using testing::DeviceGradient;
using testing::Difference;
using testing::Gradient;
using testing::ReferenceGradient;

class CudaPathTest : public ::testing::Test {
 protected:
  void SetUp() override {
    const absl::StatusOr<c10::Device> device = OpenDevice("cuda");
    if (!device.ok()) GTEST_SKIP() << device.status();
    device_ = *device;
  }
  c10::Device device_ = c10::kCPU;
};

TEST_F(CudaPathTest, InFp32EqualsAutograd) {
  std::vector<Case> cases = ArchitectureCases();
  for (Case& c : AdapterCases()) cases.push_back(std::move(c));
  for (const Case& c : cases) {
    const Gradient gradient = DeviceGradient(c, {.device = device_});
    EXPECT_EQ(Difference(gradient, ReferenceGradient(c), 1e-4), "") << c.name;
  }
}

TEST_F(CudaPathTest, InFp32EqualsAutogradWithMagnitudesDropoutAndObjectives) {
  std::vector<Case> cases = testing::ObjectiveCases();
  for (Case& c : testing::SavedModuleCases()) cases.push_back(std::move(c));
  for (const Case& c : testing::FewCases()) {
    cases.push_back(c);
    cases.back().recipe.use_dora = true;
    cases.push_back(c);
    cases.back().recipe.lora_dropout = 0.4;
  }
  for (const Case& c : cases) {
    const Gradient expected = ReferenceGradient(c);
    EXPECT_EQ(Difference(DeviceGradient(c, {.device = device_}), expected, 1e-4), "") << c.name;
    EXPECT_EQ(Difference(DeviceGradient(c, {.device = device_, .graphs = true}), expected, 1e-4),
              "")
        << c.name << ", padded";
  }
}

TEST_F(CudaPathTest, OnABaseInFewBitsEqualsAutograd) {
  for (Case& c : testing::FewCases()) {
    for (const WeightStorage storage :
         {WeightStorage::kBf16, WeightStorage::kInt8, WeightStorage::kQ4}) {
      c.recipe.base_weights = storage;
      const std::string name = absl::StrCat(c.name, ", ", WeightStorageName(storage));
      const Gradient expected = ReferenceGradient(c);
      const DevicePathOptions parts = {
          .device = device_, .limits = {.widened_at_once = 200}, .graphs = true};
      EXPECT_EQ(Difference(DeviceGradient(c, {.device = device_}), expected, 1e-4), "") << name;
      EXPECT_EQ(Difference(DeviceGradient(c, parts), expected, 1e-4), "") << name << ", in parts";
      const DevicePathOptions bf16 = {.device = device_, .dtype = at::kBFloat16};
      EXPECT_EQ(Difference(DeviceGradient(c, bf16), expected, 0.1), "") << name << ", bf16";
    }
  }
}

// CUDA's, counted.
class CountingRecorder : public GraphRecorder {
 public:
  explicit CountingRecorder(at::Device device) : inner_(MakeCudaGraphRecorder(device)) {}
  std::unique_ptr<RecordedGraph> Record(const std::function<void()>& body) override {
    ++recorded;
    return inner_->Record(body);
  }
  int64_t recorded = 0;

 private:
  const std::unique_ptr<GraphRecorder> inner_;
};

// Pads and records nothing.
class NoGraphs : public GraphRecorder {
 public:
  std::unique_ptr<RecordedGraph> Record(const std::function<void()>& body) override {
    return std::make_unique<AsIs>(body);
  }

 private:
  class AsIs : public RecordedGraph {
   public:
    explicit AsIs(std::function<void()> body) : body_(std::move(body)) {}
    void Replay() override { body_(); }

   private:
    const std::function<void()> body_;
  };
};

TEST_F(CudaPathTest, AReplayedGraphGivesTheNumbersOfItsKernelsOneByOne) {
  std::vector<Case> cases = testing::ObjectiveCases();
  for (const bool dora : {false, true}) cases.push_back(testing::RepeatingCase(dora));
  for (const at::ScalarType dtype : {at::kFloat, at::kBFloat16}) {
    for (Case& c : cases) {
      c.config.head_dim = 16;
      const auto recorder = std::make_shared<CountingRecorder>(device_);
      const testing::Steps replayed = testing::StepsOf(
          c, {.device = device_, .dtype = dtype, .graphs = true, .recorder = recorder});
      const testing::Steps one_by_one =
          testing::StepsOf(c, {.device = device_,
                               .dtype = dtype,
                               .graphs = true,
                               .recorder = std::make_shared<NoGraphs>()});
      EXPECT_GT(recorder->recorded, 0) << c.name;
      for (size_t i = 0; i < replayed.losses.size(); ++i) {
        EXPECT_NEAR(replayed.losses[i] / one_by_one.losses[i], 1, 1e-6) << c.name << i;
        const double norm = one_by_one.gradients[i].norm().item<double>();
        EXPECT_LT(replayed.gradients[i].sub(one_by_one.gradients[i]).norm().item<double>(),
                  1e-5 * norm)
            << c.name << i;
      }
    }
  }
}

// LibTorch takes no pool of memory again whose graphs are all gone, and has to be told of a
// recording that failed.
TEST_F(CudaPathTest, RecordsAgainWhenAllGraphsAreGone) {
  const DeviceStream stream(device_);
  const std::unique_ptr<GraphRecorder> recorder = MakeCudaGraphRecorder(device_);
  const at::Tensor x = at::zeros({4}, at::device(device_));
  for (int i = 0; i < 3; ++i) recorder->Record([&] { x.add_(1); })->Replay();
  EXPECT_THROW(recorder->Record([&] { x.cpu(); }), c10::Error);  // may not wait
  recorder->Record([&] { x.add_(1); })->Replay();
  EXPECT_TRUE(x.cpu().eq(4).all().item<bool>());
}

// While it lives, LibTorch throws where the host would wait for a device.
class NoWaiting {
 public:
  NoWaiting() { Set(c10::cuda::SyncDebugMode::L_ERROR); }
  ~NoWaiting() { Set(c10::cuda::SyncDebugMode::L_DISABLED); }
  NoWaiting(const NoWaiting&) = delete;
  NoWaiting& operator=(const NoWaiting&) = delete;

 private:
  static void Set(c10::cuda::SyncDebugMode mode) {
    c10::cuda::warning_state().set_sync_debug_mode(mode);
  }
};

TEST_F(CudaPathTest, AStepDoesNotWaitForTheDevice) {
  std::vector<Case> cases = testing::ObjectiveCases();
  for (const bool dora : {false, true}) cases.push_back(testing::RepeatingCase(dora));
  for (const Case& c : cases) {
    for (const bool graphs : {false, true}) {
      SCOPED_TRACE(absl::StrCat(c.name, graphs ? ", graphs" : ""));
      const DeviceStream stream(device_);
      const std::shared_ptr<const LlamaWeights> base = testing::RandomWeights(c.config, 3);
      ASSERT_OK_AND_ASSIGN(AdapterParameters parameters,
                           AdapterParameters::Create(*base, c.recipe, nullptr));
      parameters.MoveTo(device_);
      ASSERT_OK_AND_ASSIGN(const std::unique_ptr<Loss> loss, MakeLoss(c.recipe.objective, c.rows));
      const std::unique_ptr<GradientPath> path =
          MakeDevicePath({.base = base.get(),
                          .lora = &parameters.lora(),
                          .recipe = &c.recipe,
                          .rows = c.rows,
                          .loss = loss.get()},
                         {.device = device_, .dtype = at::kBFloat16, .graphs = graphs});
      DeviceOptimizer optimizer(c.recipe, parameters);
      ASSERT_THAT(loss->Prepare(*path->frozen_pass(), {0, 1, 2, 3}, {}), testing::IsOk());
      for (int64_t step = 0; step < 4; ++step) {  // as it is, recorded, replayed
        parameters.gradient.zero_();
        std::optional<NoWaiting> no_waiting;
        if (step > 0) no_waiting.emplace();  // the first one makes the tables of positions
        ASSERT_THAT(path->EnqueueGradient({0, 1, 2, 3}, 0.1), testing::IsOk());
        optimizer.Step(step, 1e-3);
      }
      EXPECT_TRUE(std::isfinite(optimizer.GradientNorm()));
    }
  }
}

TEST_F(CudaPathTest, TrainsTheSameWithAndWithoutGraphs) {
  TrainingJob job = testing::DeviceJob();
  job.recipe.epochs = 10;  // shapes come again
  const auto train = [&](bool graphs) {
    return TrainLora(job, {.device = "cuda", .device_graphs = graphs}, PosixFileSystem(),
                     SystemClock(), {});
  };
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter with, train(true));
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter without, train(false));
  EXPECT_EQ(Difference(with, without, 1e-4), "");
}

// Two ranks where there are two devices, else one.
TEST_F(CudaPathTest, RanksSumTensorsOnTheirDevices) {
  const int size = OpenDevice("cuda:1").ok() ? 2 : 1;
  testing::OnRankThreads(size, [=](const ProcessGroupOptions& options) {
    const c10::Device device(c10::kCUDA, static_cast<c10::DeviceIndex>(options.rank));
    const c10::DeviceGuard guard(device);
    const DeviceStream stream(device);
    const auto group = JoinProcessGroup(options);
    ASSERT_THAT(group, testing::IsOk());
    const at::Tensor values =
        at::full({100'003}, 0.5 + options.rank, at::device(device).dtype(at::kFloat));
    ASSERT_THAT((*group)->Sum(values), testing::IsOk());
    const double expected = size == 1 ? 0.5 : 2.0;
    EXPECT_TRUE(values.cpu().eq(expected).all().item<bool>());
  });
}

// Heads that flash attention takes: several to a key head, with and without windows. (A window of
// one token leaves no gradient of queries and keys to compare.)
std::vector<Case> FlashCases() {
  std::vector<Case> cases;
  for (const int64_t width : {8, 64, 128}) {
    for (const int64_t key_heads : {1, 2, 6}) {
      for (const int64_t window : {0, 2, 5}) {
        Case c = ArchitectureCases().front();
        c.name = absl::StrCat("heads of ", width, ", ", key_heads, " key heads, window ", window);
        c.config.head_dim = width;
        c.config.num_kv_heads = key_heads;
        c.config.sliding_window = window;
        cases.push_back(std::move(c));
      }
    }
  }
  return cases;
}

TEST_F(CudaPathTest, InBfloat16StaysNearTheFp32Gradient) {
  std::vector<Case> cases = ArchitectureCases();
  for (Case& c : FlashCases()) cases.push_back(std::move(c));
  for (const Case& c : cases) {
    const Gradient expected = ReferenceGradient(c);
    for (const bool padded : {false, true}) {
      const Gradient gradient =
          DeviceGradient(c, {.device = device_, .dtype = at::kBFloat16, .graphs = padded});
      EXPECT_EQ(Difference(gradient, expected, 0.05), "") << c.name << (padded ? ", padded" : "");
    }
  }
}

// Flash attention with more keys than queries, aligned at their ends.
TEST_F(CudaPathTest, SharedPrefixesGiveTheGradientOfTheRowsAlone) {
  std::vector<Case> cases = ArchitectureCases();
  for (Case& c : FlashCases()) cases.push_back(std::move(c));
  for (Case& c : cases) {
    c.rows = testing::SharingRows(c.config);
    const Gradient expected = ReferenceGradient(c);
    for (const bool padded : {false, true}) {
      const std::string name = absl::StrCat(c.name, padded ? ", padded" : "");
      EXPECT_EQ(
          Difference(DeviceGradient(c, {.device = device_, .graphs = padded}), expected, 1e-4), "")
          << name;
      const DevicePathOptions bf16 = {.device = device_, .dtype = at::kBFloat16, .graphs = padded};
      const Gradient gradient = DeviceGradient(c, bf16), again = DeviceGradient(c, bf16);
      EXPECT_EQ(Difference(gradient, expected, 0.1), "") << name << ", bf16";
      EXPECT_TRUE(gradient.parameters.gradient.equal(again.parameters.gradient)) << name;
    }
  }
}

// Whose gradients are differences of larger sums.
TEST_F(CudaPathTest, InBfloat16ObjectivesStayNearTheirFp32Gradients) {
  for (const Case& c : testing::ObjectiveCases()) {
    const Gradient expected = ReferenceGradient(c);
    for (const bool padded : {false, true}) {
      const Gradient gradient =
          DeviceGradient(c, {.device = device_, .dtype = at::kBFloat16, .graphs = padded});
      EXPECT_EQ(Difference(gradient, expected, 0.1), "") << c.name << (padded ? ", padded" : "");
    }
  }
}

TEST_F(CudaPathTest, TakesTheStepsOfTheCpu) {
  const TrainingJob job = testing::DeviceJob();
  const auto train = [&](const char* device) {
    return TrainLora(job, {.device = device}, PosixFileSystem(), SystemClock(), {});
  };
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter on_cpu, train("cpu"));
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter on_cuda, train("cuda"));
  EXPECT_EQ(Difference(on_cuda, on_cpu, 1e-4), "");
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter again, train("cuda"));
  EXPECT_EQ(AdapterDigest(again.adapter), AdapterDigest(on_cuda.adapter));
}

TEST_F(CudaPathTest, InBfloat16ARunRepeatsBitForBit) {
  TrainingJob job = testing::DeviceJob();
  job.recipe.precision = TrainingPrecision::kBf16;
  const auto train = [&] {
    return TrainLora(job, {.device = "cuda"}, PosixFileSystem(), SystemClock(), {});
  };
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter first, train());
  ASSERT_OK_AND_ASSIGN(const TrainedAdapter second, train());
  EXPECT_EQ(AdapterDigest(first.adapter), AdapterDigest(second.adapter));
}

TEST_F(CudaPathTest, TrainsEveryWeightAsTheCpuDoes) {
  TrainingJob job = testing::DeviceJob();
  job.recipe = {.method = TrainingMethod::kFull, .learning_rate = 1e-3, .rows_per_step = 2};
  job.recipe.weight_decay = 0.1;
  job.recipe.epsilon = 1e-6;
  const auto train = [&](const char* device) {
    return TrainFull(job, {.device = device}, PosixFileSystem(), SystemClock(), {});
  };
  ASSERT_OK_AND_ASSIGN(const TrainedBase on_cpu, train("cpu"));
  ASSERT_OK_AND_ASSIGN(const TrainedBase on_cuda, train("cuda"));
  ASSERT_EQ(on_cuda.history.size(), on_cpu.history.size());
  for (size_t i = 0; i < on_cpu.history.size(); ++i) {
    EXPECT_NEAR(on_cuda.history[i].loss / on_cpu.history[i].loss, 1, 1e-4) << i;
    EXPECT_NEAR(on_cuda.history[i].grad_norm / on_cpu.history[i].grad_norm, 1, 1e-3) << i;
  }
  for (const NamedTensor& named : NamedTensors(*on_cuda.weights)) {
    EXPECT_TRUE(named.tensor.is_cpu()) << named.name;
  }
}

TEST_F(CudaPathTest, JobsOverOneBaseHaveTheBytesTheyHaveAlone) {
  const auto base = testing::WideBase();
  std::vector<QueuedJob> jobs = testing::OddJobs(base);
  jobs[1].job.recipe.modules_to_save = {"lm_head", "norm"};
  jobs[1].job.recipe.weight_decay = 0;
  for (QueuedJob& job : jobs) job.options.device = "cuda";
  testing::ExpectAllAsAlone(jobs, testing::RunAll(base, jobs, {}, {}, PosixFileSystem(), "cuda"));
}

// A base whose copy no device holds; the status says so and the process goes on.
TEST_F(CudaPathTest, OutOfMemoryIsResourceExhausted) {
  TrainingJob job = testing::DeviceJob();
  auto large = std::make_shared<LlamaWeights>(*job.base);
  large->config.vocab_size = int64_t{1} << 40;
  large->head = large->head.narrow(0, 0, 1).expand({int64_t{1} << 40, large->head.size(1)});
  job.base = large;
  EXPECT_THAT(TrainLora(job, {.device = "cuda"}, PosixFileSystem(), SystemClock(), {}),
              testing::StatusIs(absl::StatusCode::kResourceExhausted, ::testing::_));
}

}  // namespace
}  // namespace evolora
