#include "evolora/device/kernels.h"

#include <cmath>
#include <limits>
#include <vector>

#include "device/kernel_cases.h"
#include "gtest/gtest.h"
#include "host_kernels.h"
#include "kernel_math.h"

namespace evolora {
namespace {

using testing::AllKernelCases;
using testing::KernelBuffer;
using testing::KernelCase;

// The buffers after the kernel, which may write to those it was given.
std::vector<KernelBuffer> AfterRun(const KernelCase& kernel_case, const DeviceKernels& kernels) {
  std::vector<KernelBuffer> buffers = kernel_case.buffers;
  std::vector<void*> data;
  for (KernelBuffer& buffer : buffers) data.push_back(buffer.bytes.data());
  EXPECT_EQ(kernel_case.run(kernels, data, nullptr), nullptr) << kernel_case.name;
  return buffers;
}

TEST(HostKernels, EqualPlainFormulasInEveryShapeAndType) {
  for (const KernelCase& kernel_case : AllKernelCases()) {
    EXPECT_EQ(DifferenceToExpected(kernel_case, AfterRun(kernel_case, HostKernels())), "");
  }
}

TEST(HostKernels, NoThreadReadsWhatAnotherOneWrites) {
  for (const KernelCase& kernel_case : AllKernelCases()) {
    const std::vector<KernelBuffer> ascending = AfterRun(kernel_case, HostKernels());
    const std::vector<KernelBuffer> descending = AfterRun(kernel_case, HostKernelsDescending());
    for (size_t i = 0; i < ascending.size(); ++i) {
      EXPECT_EQ(ascending[i].bytes, descending[i].bytes)
          << kernel_case.name << ": " << ascending[i].name;
    }
  }
}

// Arrays that begin off the boundary of a wide access take the narrow one: same numbers.
TEST(HostKernels, UnalignedArraysGiveTheSameNumbers) {
  for (const KernelCase& kernel_case : AllKernelCases()) {
    std::vector<KernelBuffer> buffers = kernel_case.buffers;
    std::vector<std::vector<unsigned char>> moved;
    std::vector<void*> data;
    for (const KernelBuffer& buffer : buffers) {
      moved.emplace_back(8, 0);
      moved.back().insert(moved.back().end(), buffer.bytes.begin(), buffer.bytes.end());
    }
    for (std::vector<unsigned char>& bytes : moved) data.push_back(bytes.data() + 8);
    ASSERT_EQ(kernel_case.run(HostKernels(), data, nullptr), nullptr);
    for (size_t i = 0; i < buffers.size(); ++i) {
      buffers[i].bytes.assign(moved[i].begin() + 8, moved[i].end());
    }
    EXPECT_EQ(DifferenceToExpected(kernel_case, buffers), "");
  }
}

TEST(HostKernels, ANormThatIsNotFiniteStopsTheUpdate) {
  for (const float bad : {std::numeric_limits<float>::infinity(), std::nanf("")}) {
    std::vector<float> gradient(1000, 1.0f), norm_clip(2);
    gradient[700] = bad;
    std::vector<double> partials(kNormPartials);
    ASSERT_EQ(HostKernels().gradient_norm({.gradient = gradient.data(),
                                           .count = 1000,
                                           .max_norm = 1,
                                           .partials = partials.data(),
                                           .norm_clip = norm_clip.data()},
                                          nullptr),
              nullptr);
    EXPECT_FALSE(std::isfinite(norm_clip[0]));
    EXPECT_TRUE(std::isnan(norm_clip[1]));  // AdamW leaves everything: step_cases.cc
  }
}

TEST(HostKernels, ALogitThatIsNotANumberShowsInTheLoss) {
  for (const float bad : {std::numeric_limits<float>::infinity(), std::nanf("")}) {
    std::vector<float> logits(100, 0.5f), losses(1), factor = {1};
    logits[60] = bad;
    const std::vector<int32_t> first = {0, 1}, ids = {3}, counts = {1};
    ASSERT_EQ(HostKernels().cross_entropy({.logits = logits.data(),
                                           .rows = 1,
                                           .vocabulary = 100,
                                           .first_target = first.data(),
                                           .ids = ids.data(),
                                           .counts = counts.data(),
                                           .losses = losses.data(),
                                           .factor = factor.data()},
                                          nullptr),
              nullptr);
    EXPECT_FALSE(std::isfinite(losses[0]));
  }
}

TEST(BFloat16, RoundsToNearestTiesToEven) {
  const auto bits = [](float x) { return FromFloat<BFloat16>(x).bits; };
  EXPECT_EQ(bits(1.0f), 0x3f80);
  EXPECT_EQ(bits(1.0f + 1.0f / 256), 0x3f80);                 // tie: down to even
  EXPECT_EQ(bits(1.0f + 3.0f / 256), 0x3f82);                 // tie: up to even
  EXPECT_EQ(bits(1.0f + 1.0f / 256 + 1.0f / 65536), 0x3f81);  // above the tie
  EXPECT_EQ(bits(-1.0f - 3.0f / 256), 0xbf82);
  EXPECT_EQ(bits(3.4028234e38f), 0x7f80);  // rounds to infinity
  EXPECT_EQ(bits(std::numeric_limits<float>::infinity()), 0x7f80);
  EXPECT_TRUE(std::isnan(ToFloat(FromFloat<BFloat16>(std::nanf("")))));
  EXPECT_EQ(ToFloat(BFloat16{0x3f81}), 1.0f + 1.0f / 128);
}

}  // namespace
}  // namespace evolora
