#pragma once

#include <cstdint>
#include <vector>

#include "evolora/core/random.h"
#include "evolora/model/kernels.h"
#include "gtest/gtest.h"

namespace evolora {
extern const KernelTable kEmulatedTileKernels;  // emulated_kernels.cc
}

namespace evolora::testing {

// Uniform in [-scale, scale).
inline std::vector<float> Values(int64_t count, uint64_t seed, double scale = 1) {
  Random random(seed);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = static_cast<float>((random.NextDouble() - 0.5) * 2 * scale);
  return values;
}

// Runs `body` once for each instruction set this CPU has.
template <typename Body>
void ForEachTable(const Body& body) {
  const KernelTableList list = RunnableKernels();
  for (int i = 0; i < list.count; ++i) {
    SCOPED_TRACE(list.tables[i]->name);
    body(*list.tables[i]);
  }
}

// And once by emulated tiles.
template <typename Body>
void ForEachTileTable(const Body& body) {
  ForEachTable(body);
  SCOPED_TRACE(kEmulatedTileKernels.name);
  body(kEmulatedTileKernels);
}

}  // namespace evolora::testing
