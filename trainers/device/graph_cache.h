#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>

#include "ATen/core/Tensor.h"
#include "device/batch_shape.h"

namespace evolora {

// Work on a device, recorded and started as a whole.
class RecordedGraph {
 public:
  virtual ~RecordedGraph() = default;
  virtual void Replay() = 0;
};

class GraphRecorder {
 public:
  virtual ~GraphRecorder() = default;
  // What `body` starts on the device's current stream, without running it. `body` does not wait for
  // the device.
  virtual std::unique_ptr<RecordedGraph> Record(const std::function<void()>& body) = 0;
};

// CUDA graphs on `device`, whose current stream is not the default one. Null without CUDA.
std::unique_ptr<GraphRecorder> MakeCudaGraphRecorder(at::Device device);

// Which micro-batches run as graphs. A shape that comes for the first time runs as it is, which
// also brings buffers to their size and libraries to their choices; the second time it is recorded;
// from then on its graph is repeated.
//
// A graph holds addresses. Memory is taken anew only for a shape that does not fit into a single
// earlier one: such a shape makes all graphs go.
class GraphCache {
 public:
  // `recorder` null: everything runs as it is. Of graphs, no more than `max_graphs` are kept: those
  // used last.
  explicit GraphCache(std::shared_ptr<GraphRecorder> recorder, size_t max_graphs = 32);

  // `body` is a pass over the tokens of this shape: nothing but the shape and memory on the device
  // may tell it from another one.
  void Run(const BatchShape& shape, const std::function<void()>& body);
  // After other work than passes that may have taken memory anew.
  void Forget();

  struct Counts {
    int64_t as_is = 0;
    int64_t recorded = 0;
    int64_t replayed = 0;
  };
  const Counts& counts() const { return counts_; }

 private:
  struct Entry {
    std::unique_ptr<RecordedGraph> graph;  // null: the shape came once
    int64_t last_use = 0;
  };
  void DropOldest();

  const std::shared_ptr<GraphRecorder> recorder_;
  const size_t max_graphs_;
  std::map<BatchShape, Entry> entries_;
  int64_t uses_ = 0;
  Counts counts_;
};

}  // namespace evolora
