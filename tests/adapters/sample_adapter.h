#pragma once

#include <algorithm>
#include <string>
#include <vector>

#include "evolora/adapters/lora_adapter.h"
#include "evolora/core/random.h"

namespace evolora::testing {

// A valid adapter with random values: q_proj and v_proj of `num_layers` layers of width `width`
// (v_proj: half of it out).
inline LoraAdapter SampleAdapter(int64_t rank, double scale = 2, int num_layers = 2,
                                 int64_t width = 8) {
  LoraAdapter adapter;
  adapter.base_name = "org/tiny";
  adapter.base_revision = "abc123";
  Random random(17);
  for (int layer = 0; layer < num_layers; ++layer) {
    for (const char* leaf : {"q_proj", "v_proj"}) {
      LoraModule module;
      module.path = "model.layers." + std::to_string(layer) + ".self_attn." + leaf;
      module.rank = rank;
      module.in_features = width;
      module.out_features = leaf[0] == 'q' ? width : width / 2;
      module.scale = scale;
      for (int64_t i = 0; i < rank * module.in_features; ++i) {
        module.a.push_back(static_cast<float>(random.NextDouble() - 0.5));
      }
      for (int64_t i = 0; i < rank * module.out_features; ++i) {
        module.b.push_back(static_cast<float>(random.NextDouble() - 0.5));
      }
      adapter.modules.push_back(module);
    }
  }
  std::sort(adapter.modules.begin(), adapter.modules.end(),
            [](const LoraModule& x, const LoraModule& y) { return x.path < y.path; });
  return adapter;
}

// The same as a DoRA: with magnitudes between 0.5 and 1.5.
inline LoraAdapter SampleDora(int64_t rank) {
  LoraAdapter adapter = SampleAdapter(rank);
  Random random(23);
  for (LoraModule& module : adapter.modules) {
    for (int64_t o = 0; o < module.out_features; ++o) {
      module.magnitude.push_back(static_cast<float>(0.5 + random.NextDouble()));
    }
  }
  return adapter;
}

// scale * B A in double, [out, in] row-major: the function of a module.
inline std::vector<double> DeltaWeight(const LoraModule& m) {
  std::vector<double> delta(m.out_features * m.in_features, 0);
  for (int64_t o = 0; o < m.out_features; ++o) {
    for (int64_t r = 0; r < m.rank; ++r) {
      for (int64_t i = 0; i < m.in_features; ++i) {
        delta[o * m.in_features + i] +=
            m.scale * double{m.b[o * m.rank + r]} * double{m.a[r * m.in_features + i]};
      }
    }
  }
  return delta;
}

}  // namespace evolora::testing
