// Every kernel on the device: against plain formulas, and against what the CPU makes of the same
// grid. Built with EVOLORA_CUDA; skips without a device.
#include <cuda_runtime_api.h>

#include <cmath>
#include <vector>

#include "absl/strings/str_cat.h"
#include "device/kernel_cases.h"
#include "evolora/device/kernels.h"
#include "gtest/gtest.h"

namespace evolora {
namespace {

using testing::AllKernelCases;
using testing::KernelBuffer;
using testing::KernelCase;

class CudaKernelsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_NE(CudaKernels(), nullptr);
    int count = 0;
    const cudaError_t error = cudaGetDeviceCount(&count);
    if (error != cudaSuccess || count == 0) {
      GTEST_SKIP() << "no CUDA device: " << cudaGetErrorString(error);
    }
    ASSERT_EQ(cudaStreamCreate(&stream_), cudaSuccess);
  }
  void TearDown() override {
    if (stream_ != nullptr) cudaStreamDestroy(stream_);
  }

  // The buffers after the kernel ran on the device.
  std::vector<KernelBuffer> RunOnDevice(const KernelCase& kernel_case) {
    std::vector<KernelBuffer> buffers = kernel_case.buffers;
    std::vector<void*> data(buffers.size(), nullptr);
    for (size_t i = 0; i < buffers.size(); ++i) {
      const std::vector<unsigned char>& bytes = buffers[i].bytes;
      EXPECT_EQ(cudaMalloc(&data[i], bytes.size() + 1), cudaSuccess);
      EXPECT_EQ(cudaMemcpy(data[i], bytes.data(), bytes.size(), cudaMemcpyHostToDevice),
                cudaSuccess);
    }
    EXPECT_EQ(kernel_case.run(*CudaKernels(), data, stream_), nullptr) << kernel_case.name;
    const cudaError_t error = cudaStreamSynchronize(stream_);
    EXPECT_EQ(error, cudaSuccess) << kernel_case.name << ": " << cudaGetErrorString(error);
    for (size_t i = 0; i < buffers.size(); ++i) {
      std::vector<unsigned char>& bytes = buffers[i].bytes;
      EXPECT_EQ(cudaMemcpy(bytes.data(), data[i], bytes.size(), cudaMemcpyDeviceToHost),
                cudaSuccess);
      cudaFree(data[i]);
    }
    return buffers;
  }

  cudaStream_t stream_ = nullptr;
};

TEST_F(CudaKernelsTest, EqualPlainFormulasInEveryShapeAndType) {
  for (const KernelCase& kernel_case : AllKernelCases()) {
    EXPECT_EQ(DifferenceToExpected(kernel_case, RunOnDevice(kernel_case)), "");
  }
}

// The same sums in the same order: what is left is contraction and the device's exp and sqrt.
TEST_F(CudaKernelsTest, AreTheCpusToAFewUnits) {
  for (const KernelCase& kernel_case : AllKernelCases()) {
    KernelCase against = kernel_case;
    std::vector<KernelBuffer> host = kernel_case.buffers;
    std::vector<void*> data;
    for (KernelBuffer& buffer : host) data.push_back(buffer.bytes.data());
    ASSERT_EQ(kernel_case.run(HostKernels(), data, nullptr), nullptr);
    for (size_t i = 0; i < host.size(); ++i) {
      if (!against.buffers[i].expected.empty()) against.buffers[i].expected = host[i].Values();
    }
    EXPECT_EQ(DifferenceToExpected(against, RunOnDevice(kernel_case)), "");
  }
}

TEST_F(CudaKernelsTest, GiveTheSameBitsOnEveryRun) {
  for (const KernelCase& kernel_case : AllKernelCases()) {
    const std::vector<KernelBuffer> first = RunOnDevice(kernel_case);
    const std::vector<KernelBuffer> second = RunOnDevice(kernel_case);
    for (size_t i = 0; i < first.size(); ++i) {
      EXPECT_EQ(first[i].bytes, second[i].bytes) << kernel_case.name << ": " << first[i].name;
    }
  }
}

}  // namespace
}  // namespace evolora
