// CUDA graphs by LibTorch, whose allocator has to know of a recording.
#include <utility>

#include "ATen/cuda/CUDAContext.h"
#include "ATen/cuda/CUDAGraph.h"
#include "c10/cuda/CUDAGuard.h"
#include "device/graph_cache.h"

namespace evolora {
namespace {

class CudaGraph : public RecordedGraph {
 public:
  explicit CudaGraph(at::Device device) : device_(device) {}
  // A graph is not taken apart while it runs.
  ~CudaGraph() override {
    const c10::cuda::CUDAGuard guard(device_);
    cudaStreamSynchronize(at::cuda::getCurrentCUDAStream());
  }

  void Record(at::cuda::MempoolId_t pool, const std::function<void()>& body) {
    // Other threads may go on with calls that a recording of their own would not allow.
    graph_.capture_begin(pool, cudaStreamCaptureModeThreadLocal);
    try {
      body();
    } catch (...) {
      try {
        graph_.capture_end();
      } catch (const std::exception&) {  // the first error says more
      }
      throw;
    }
    graph_.capture_end();
  }

  void Replay() override {
    const c10::cuda::CUDAGuard guard(device_);
    graph_.replay();
  }

 private:
  const at::Device device_;
  at::cuda::CUDAGraph graph_;
};

class CudaGraphRecorder : public GraphRecorder {
 public:
  explicit CudaGraphRecorder(at::Device device)
      : device_(device), pool_(at::cuda::graph_pool_handle()) {}

  std::unique_ptr<RecordedGraph> Record(const std::function<void()>& body) override {
    const c10::cuda::CUDAGuard guard(device_);
    auto graph = std::make_unique<CudaGraph>(device_);
    graph->Record(pool_, body);
    return graph;
  }

 private:
  const at::Device device_;
  // One for all: graphs run one after the other and leave nothing in it for each other.
  const at::cuda::MempoolId_t pool_;
};

}  // namespace

std::unique_ptr<GraphRecorder> MakeCudaGraphRecorder(at::Device device) {
  if (!device.is_cuda()) return nullptr;
  return std::make_unique<CudaGraphRecorder>(device);
}

}  // namespace evolora
