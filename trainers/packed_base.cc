#include "packed_base.h"

namespace evolora {

std::shared_ptr<const PackedBase> PackBase(const LlamaWeights& base) {
  auto packed = std::make_shared<PackedBase>();
  for (const LlamaLayer& layer : base.layers) {
    packed->layers.push_back({.qkv = PackedMatrix({layer.q, layer.k, layer.v}),
                              .out = PackedMatrix({layer.o}),
                              .gate_up = PackedMatrix({layer.gate, layer.up}),
                              .down = PackedMatrix({layer.down})});
  }
  packed->head = PackedMatrix({base.head});
  return packed;
}

}  // namespace evolora
