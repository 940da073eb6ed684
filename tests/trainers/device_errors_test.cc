#include "device/device_errors.h"

#include "device/open_device.h"
#include "evolora/device/kernels.h"
#include "evolora/model/torch_status.h"
#include "gmock/gmock.h"
#include "support/status_matchers.h"

namespace evolora {
namespace {

using ::testing::HasSubstr;
using testing::IsOk;
using testing::StatusIs;

template <typename Throw>
absl::Status StatusOf(const Throw& body) {
  return CatchTorch("step", [&]() -> absl::Status {
    return NameOutOfMemory([&]() -> absl::Status {
      body();
      return absl::OkStatus();
    });
  });
}

TEST(NameOutOfMemory, EveryWordForItIsResourceExhausted) {
  const c10::SourceLocation here = {"function", "file", 1};
  EXPECT_THAT(StatusOf([&] { throw c10::OutOfMemoryError(here, "allocator"); }),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("allocator")));
  EXPECT_THAT(StatusOf([&] { throw c10::AcceleratorError(here, 2, "CUDA error"); }),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("CUDA error")));
  EXPECT_THAT(StatusOf([&] { throw c10::Error(here, "CUBLAS_STATUS_ALLOC_FAILED in create"); }),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("CUBLAS")));
}

TEST(NameOutOfMemory, OtherErrorsStayWhatTheyAre) {
  const c10::SourceLocation here = {"function", "file", 1};
  EXPECT_THAT(StatusOf([&] { throw c10::AcceleratorError(here, 700, "illegal address"); }),
              StatusIs(absl::StatusCode::kInternal, HasSubstr("illegal address")));
  EXPECT_THAT(StatusOf([&] { throw c10::Error(here, "shape"); }),
              StatusIs(absl::StatusCode::kInternal, HasSubstr("shape")));
  EXPECT_THAT(StatusOf([] {}), IsOk());
}

TEST(OpenDevice, KnowsItsNames) {
  ASSERT_OK_AND_ASSIGN(const c10::Device cpu, OpenDevice("cpu"));
  EXPECT_TRUE(cpu.is_cpu());
  for (const char* name : {"", "gpu", "CUDA", "cuda:", "cuda:x", "cuda:-1", "cuda:01", "cuda:128",
                           "cuda:1 ", "cpu:0"}) {
    EXPECT_THAT(OpenDevice(name).status(),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("is not one of")))
        << name;
  }
}

TEST(OpenDevice, WithoutCudaSaysSo) {
  if (CudaKernels() != nullptr) GTEST_SKIP() << "this build has CUDA";
  for (const char* name : {"cuda", "cuda:0", "cuda:127"}) {
    EXPECT_THAT(OpenDevice(name).status(),
                StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("without CUDA")))
        << name;
  }
}

}  // namespace
}  // namespace evolora
