// CUDA graphs by LibTorch, whose allocators have to know of a recording.
#include <exception>
#include <memory>
#include <utility>

#include "ATen/core/CachingHostAllocator.h"
#include "ATen/cuda/CUDAContext.h"
#include "ATen/cuda/CUDAGraph.h"
#include "c10/cuda/CUDACachingAllocator.h"
#include "c10/cuda/CUDAGuard.h"
#include "device/graph_cache.h"

namespace evolora {
namespace {

// Memory that graphs share.
using Pool = std::shared_ptr<const at::cuda::MempoolId_t>;

// Of a clean-up, where an earlier error says more.
template <typename Call>
void Attempt(const Call& call) {
  try {
    call();
  } catch (const std::exception&) {
  }
}

class CudaGraph : public RecordedGraph {
 public:
  CudaGraph(at::Device device, Pool pool) : device_(device), pool_(std::move(pool)) {}
  // A graph is not taken apart while it runs.
  ~CudaGraph() override {
    const c10::cuda::CUDAGuard guard(device_);
    cudaStreamSynchronize(at::cuda::getCurrentCUDAStream());
  }

  void Record(const std::function<void()>& body) {
    try {
      // Other threads may go on with calls that a recording of their own would not allow.
      graph_.capture_begin(*pool_, cudaStreamCaptureModeThreadLocal);
      body();
      graph_.capture_end();
    } catch (...) {
      Abandon();
      throw;
    }
  }

  void Replay() override {
    const c10::cuda::CUDAGuard guard(device_);
    graph_.replay();
  }

 private:
  // LibTorch 2.11 leaves its allocators recording when the end of a recording fails.
  void Abandon() {
    Attempt([&] { graph_.capture_end(); });
    Attempt([&] { c10::cuda::CUDACachingAllocator::endAllocateToPool(device_.index(), *pool_); });
    Attempt([&] { at::getHostAllocator(at::kCUDA)->end_allocate_to_pool(*pool_); });
  }

  const at::Device device_;
  const Pool pool_;  // outlives the graph
  at::cuda::CUDAGraph graph_;
};

class CudaGraphRecorder : public GraphRecorder {
 public:
  explicit CudaGraphRecorder(at::Device device) : device_(device) {}

  std::unique_ptr<RecordedGraph> Record(const std::function<void()>& body) override {
    const c10::cuda::CUDAGuard guard(device_);
    auto graph = std::make_unique<CudaGraph>(device_, LivePool());
    graph->Record(body);
    return graph;
  }

 private:
  // One for all graphs: they run one after the other and leave nothing in it for each other.
  // LibTorch takes no pool again that has lost its last graph: a new one then.
  Pool LivePool() {
    Pool pool = pool_.lock();
    if (pool != nullptr) return pool;
    c10::cuda::CUDACachingAllocator::emptyCache();  // a recording cannot take cached memory back
    pool = std::make_shared<const at::cuda::MempoolId_t>(at::cuda::graph_pool_handle());
    pool_ = pool;
    return pool;
  }

  const at::Device device_;
  std::weak_ptr<const at::cuda::MempoolId_t> pool_;
};

}  // namespace

std::unique_ptr<GraphRecorder> MakeCudaGraphRecorder(at::Device device) {
  if (!device.is_cuda()) return nullptr;
  return std::make_unique<CudaGraphRecorder>(device);
}

}  // namespace evolora
