// Stands in for cuda_graph.cc in a build without EVOLORA_CUDA.
#include "device/graph_cache.h"

namespace evolora {

std::unique_ptr<GraphRecorder> MakeCudaGraphRecorder(at::Device /*device*/) { return nullptr; }

}  // namespace evolora
