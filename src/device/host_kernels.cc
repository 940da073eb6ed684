#include "host_kernels.h"

#include <vector>

#include "dispatch.h"

namespace evolora {
namespace {

template <bool kDescending>
struct HostRunner {
  void* stream;

  template <int kThreads, class Body>
  static void ForThreads(const Body& body) {
    for (int i = 0; i < kThreads; ++i) body(kDescending ? kThreads - 1 - i : i);
  }

  // Adds findings in the order of cuda_kernels.cu: within each warp by halves, then over warps.
  template <int kThreads, class Op>
  static typename Op::Finding Total(std::vector<typename Op::Finding>& found) {
    for (int warp = 0; warp < kThreads; warp += kWarp) {
      for (int offset = kWarp / 2; offset > 0; offset /= 2) {
        for (int lane = 0; lane < offset; ++lane) {
          found[static_cast<size_t>(warp + lane)] =
              Op::Join(found[static_cast<size_t>(warp + lane)],
                       found[static_cast<size_t>(warp + lane + offset)]);
        }
      }
    }
    typename Op::Finding total = found[0];
    for (int warp = kWarp; warp < kThreads; warp += kWarp) {
      total = Op::Join(total, found[static_cast<size_t>(warp)]);
    }
    return total;
  }

  template <int kThreads, class Op>
  KernelError Rows(const Op& op) const {
    std::vector<typename Op::Finding> found(kThreads);
    for (int64_t row = 0; row < op.rows; ++row) {
      ForThreads<kThreads>([&](int thread) {
        found[static_cast<size_t>(thread)] = op.Partial(row, thread, kThreads);
      });
      const typename Op::Finding total = Total<kThreads, Op>(found);
      ForThreads<kThreads>([&](int thread) { op.Finish(row, thread, kThreads, total); });
    }
    return nullptr;
  }

  template <int kThreads, class Op>
  KernelError Each(const Op& op) const {
    for (int64_t row = 0; row < op.rows; ++row) {
      ForThreads<kThreads>([&](int thread) { op.Run(row, thread, kThreads); });
    }
    return nullptr;
  }
};

}  // namespace

const DeviceKernels& HostKernels() {
  static const DeviceKernels kTable = TableOf<HostRunner<false>>("host");
  return kTable;
}

const DeviceKernels& HostKernelsDescending() {
  static const DeviceKernels kTable = TableOf<HostRunner<true>>("host, descending");
  return kTable;
}

}  // namespace evolora
