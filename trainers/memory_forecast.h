#pragma once

#include <cstdint>
#include <vector>

#include "adapter_plan.h"
#include "evolora/model/llama_config.h"

namespace evolora {

// One group of a decoder layer: linear layers that read the same input, and the ranks of their
// adapters together.
struct GroupShape {
  int64_t in = 0;
  int64_t out = 0;
  int64_t rank = 0;
};
struct LayerShapes {
  GroupShape qkv, out, gate_up, down;
};
LayerShapes ShapesOfLayer(const LlamaConfig& config, const std::vector<PlannedModule>& modules,
                          int64_t layer);

// The largest micro-batch of a run, each figure for itself.
struct LargestMicroBatch {
  int64_t tokens = 0;      // computed at once
  int64_t predicting = 0;  // with a target
  int64_t row_tokens = 0;  // of its longest row
};

// Bytes of the adapter's panels, and of all buffers, of the fast path (fast_path.cc, fast_layer.h,
// tree_attention.h, fast_head.h): the sizes those reserve, summed. Buffers used one after the other
// by several layers count once.
int64_t PackedBytes(const LlamaConfig& config, const std::vector<PlannedModule>& modules);
int64_t ArenaBytes(const LlamaConfig& config, const LoraRecipe& recipe,
                   const std::vector<PlannedModule>& modules, const LargestMicroBatch& largest,
                   int64_t num_threads);

}  // namespace evolora
