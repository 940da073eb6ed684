#pragma once

#include <memory>
#include <vector>

#include "evolora/model/llama_weights.h"
#include "evolora/model/packed_matrix.h"

namespace evolora {

// The frozen matrices of a decoder layer as the fast path's forward pass reads them: those that
// read the same input in one.
struct PackedLayer {
  PackedMatrix qkv, out, gate_up, down;
};

// A base packed once, for every adapter that is trained on it. Immutable; as large as the base's
// linear layers and head. Of matrices in few bits (LlamaWeights::compact) and of a head that is
// trained nothing is packed.
struct PackedBase {
  std::vector<PackedLayer> layers;
  PackedMatrix head;
};

std::shared_ptr<const PackedBase> PackBase(const LlamaWeights& base);

}  // namespace evolora
