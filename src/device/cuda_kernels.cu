#include <cuda_runtime.h>

#include "dispatch.h"

namespace evolora {
namespace {

constexpr int kMinBlock = 256;  // threads; groups of fewer share a block
constexpr unsigned kAllLanes = 0xffffffffu;

// A value of lane `lane + offset` of the warp, word by word.
template <class T>
__device__ T FromLane(T value, int offset) {
  static_assert(sizeof(T) % sizeof(unsigned) == 0, "moved in words");
  constexpr int kWords = sizeof(T) / sizeof(unsigned);
  unsigned words[kWords];
  memcpy(words, &value, sizeof value);
  for (int i = 0; i < kWords; ++i) words[i] = __shfl_down_sync(kAllLanes, words[i], offset);
  memcpy(&value, words, sizeof value);
  return value;
}

// The joined findings of a group, in every one of its threads. Groups are one warp, or the block.
template <int kThreads, class Op>
__device__ typename Op::Finding Total(typename Op::Finding found) {
  using Finding = typename Op::Finding;
  constexpr int kBlockWarps = (kThreads > kMinBlock ? kThreads : kMinBlock) / kWarp;
  constexpr int kWarps = kThreads / kWarp;
  __shared__ alignas(Finding) unsigned char memory[kBlockWarps * sizeof(Finding)];
  auto* sums = reinterpret_cast<Finding*>(memory);
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    found = Op::Join(found, FromLane(found, offset));
  }
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  if (threadIdx.x % kWarp == 0) sums[warp] = found;
  if (kWarps == 1) {
    __syncwarp();
    return sums[warp];
  }
  __syncthreads();
  Finding total = sums[0];
  for (int i = 1; i < kWarps; ++i) total = Op::Join(total, sums[i]);
  return total;
}

template <int kThreads>
struct Shape {
  static_assert(kThreads == kWarp || kThreads >= kMinBlock, "a group is a warp or a block");
  static constexpr int kRows = kThreads >= kMinBlock ? 1 : kMinBlock / kThreads;
  static constexpr int kBlock = kThreads * kRows;
  static unsigned Blocks(int64_t rows) { return static_cast<unsigned>((rows + kRows - 1) / kRows); }
};

// A group that has no row leaves as a whole: it is a warp, and waits for no other.
template <int kThreads, class Op>
__global__ void __launch_bounds__(Shape<kThreads>::kBlock) RowsKernel(const Op op) {
  const int group = static_cast<int>(threadIdx.x) / kThreads;
  const int thread = static_cast<int>(threadIdx.x) % kThreads;
  const int64_t row = int64_t{blockIdx.x} * Shape<kThreads>::kRows + group;
  if (row >= op.rows) return;
  const auto total = Total<kThreads, Op>(op.Partial(row, thread, kThreads));
  op.Finish(row, thread, kThreads, total);
}

template <int kThreads, class Op>
__global__ void __launch_bounds__(kThreads) EachKernel(const Op op) {
  op.Run(blockIdx.x, static_cast<int>(threadIdx.x), kThreads);
}

struct CudaRunner {
  void* stream;

  static KernelError Started() {
    const cudaError_t error = cudaGetLastError();
    return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
  }

  template <int kThreads, class Op>
  KernelError Rows(const Op& op) const {
    using Grid = Shape<kThreads>;
    if (op.rows == 0) return nullptr;
    RowsKernel<kThreads, Op>
        <<<Grid::Blocks(op.rows), Grid::kBlock, 0, static_cast<cudaStream_t>(stream)>>>(op);
    return Started();
  }

  template <int kThreads, class Op>
  KernelError Each(const Op& op) const {
    if (op.rows == 0) return nullptr;
    EachKernel<kThreads, Op>
        <<<static_cast<unsigned>(op.rows), kThreads, 0, static_cast<cudaStream_t>(stream)>>>(op);
    return Started();
  }
};

}  // namespace

const DeviceKernels* CudaKernels() {
  static const DeviceKernels kTable = TableOf<CudaRunner>("cuda");
  return &kTable;
}

}  // namespace evolora
