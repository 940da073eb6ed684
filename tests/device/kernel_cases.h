#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "evolora/device/kernels.h"

namespace evolora::testing {

// An array that a kernel reads or writes, and what it should hold afterwards.
struct KernelBuffer {
  enum class Kind { kFloat32, kBFloat16, kFloat64, kInt32, kByte, kUInt64 };
  std::string name;
  Kind kind = Kind::kFloat32;
  std::vector<unsigned char> bytes;
  std::vector<double> expected;  // empty: anything

  std::vector<double> Values() const;
};

// A call of a kernel. `expected` was computed by plain formulas in fp64.
struct KernelCase {
  std::string name;
  std::vector<KernelBuffer> buffers;
  // `data` holds a pointer to each buffer, in memory that the kernels reach.
  std::function<KernelError(const DeviceKernels&, const std::vector<void*>& data, void* stream)>
      run;
};

// Every kernel in both element types over odd, even and one-element shapes.
std::vector<KernelCase> AllKernelCases();

// What differs: "" or the first element of `after` that is not within the tolerance of its kind of
// the expectation: fp32 2e-5 of the largest value; bf16 1 / 128 of the element and 1 / 256 of the
// largest, because what is computed on was rounded too.
std::string DifferenceToExpected(const KernelCase& kernel_case,
                                 const std::vector<KernelBuffer>& after);

}  // namespace evolora::testing
