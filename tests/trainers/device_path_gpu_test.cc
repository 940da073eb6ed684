// The device path on a CUDA device against the autograd reference on the CPU. Built with
// EVOLORA_CUDA; skips without a device.
#include <cmath>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "device/device_path.h"
#include "device/open_device.h"
#include "evolora/core/clock.h"
#include "evolora/trainers/lora_trainer.h"
#include "gtest/gtest.h"
#include "support/failing_file_system.h"
#include "support/status_matchers.h"
#include "trainers/device_cases.h"

namespace evolora {
namespace {

using testing::AdapterCases;
using testing::ArchitectureCases;
using testing::DeviceCase;
using testing::DeviceGradient;
using testing::Difference;
using testing::PathGradient;
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
  std::vector<DeviceCase> cases = ArchitectureCases();
  for (DeviceCase& c : AdapterCases()) cases.push_back(std::move(c));
  for (const DeviceCase& c : cases) {
    const DeviceGradient gradient = PathGradient(c, {.device = device_});
    EXPECT_EQ(Difference(gradient, ReferenceGradient(c), 1e-4), "") << c.name;
  }
}

// Heads that flash attention takes: several to a key head, with and without windows.
std::vector<DeviceCase> FlashCases() {
  std::vector<DeviceCase> cases;
  for (const int64_t width : {8, 64, 128}) {
    for (const int64_t key_heads : {1, 2, 6}) {
      for (const int64_t window : {0, 1, 5}) {
        DeviceCase c = ArchitectureCases().front();
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
  std::vector<DeviceCase> cases = ArchitectureCases();
  for (DeviceCase& c : FlashCases()) cases.push_back(std::move(c));
  for (const DeviceCase& c : cases) {
    const DeviceGradient gradient = PathGradient(c, {.device = device_, .dtype = at::kBFloat16});
    EXPECT_EQ(Difference(gradient, ReferenceGradient(c), 0.05), "") << c.name;
  }
}

}  // namespace
}  // namespace evolora
