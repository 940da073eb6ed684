// The device path on a CUDA device against the autograd reference on the CPU. Built with
// EVOLORA_CUDA; skips without a device.
#include <memory>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "device/device_path.h"
#include "device/open_device.h"
#include "evolora/adapters/lora_adapter.h"
#include "evolora/core/clock.h"
#include "evolora/core/file_system.h"
#include "evolora/trainers/lora_trainer.h"
#include "gtest/gtest.h"
#include "support/status_matchers.h"
#include "trainers/device_cases.h"

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

// Heads that flash attention takes: several to a key head, with and without windows.
std::vector<Case> FlashCases() {
  std::vector<Case> cases;
  for (const int64_t width : {8, 64, 128}) {
    for (const int64_t key_heads : {1, 2, 6}) {
      for (const int64_t window : {0, 1, 5}) {
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
    const Gradient gradient = DeviceGradient(c, {.device = device_, .dtype = at::kBFloat16});
    EXPECT_EQ(Difference(gradient, ReferenceGradient(c), 0.05), "") << c.name;
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
