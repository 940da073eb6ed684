#include "packed_base.h"

namespace evolora {

std::shared_ptr<const PackedBase> PackBase(const LlamaWeights& base) {
  auto packed = std::make_shared<PackedBase>();
  for (const LlamaLayer& layer : base.layers) {
    if (base.compact != nullptr) break;
    packed->layers.push_back({.qkv = PackedMatrix({layer.q, layer.k, layer.v}),
                              .out = PackedMatrix({layer.o}),
                              .gate_up = PackedMatrix({layer.gate, layer.up}),
                              .down = PackedMatrix({layer.down})});
  }
  packed->layers.resize(base.layers.size());
  const bool is_frozen = base.head.defined() && !base.head.requires_grad();
  if (is_frozen) packed->head = PackedMatrix({base.head});
  return packed;
}

}  // namespace evolora
