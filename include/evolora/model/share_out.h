#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "ATen/Parallel.h"

namespace evolora {

// Calls body(begin, end) on all of LibTorch's threads, for ranges that together are [0, count). A
// thread takes the next range when it is free, a part of what is left but no less than `grain`:
// cores of shared machines are unequally fast. `body` may be called several times by a thread, and
// must give the same for any cut.
template <typename Body>
void ShareOut(int64_t count, int64_t grain, const Body& body) {
  const int64_t threads = at::get_num_threads();
  const int64_t workers = std::min(threads, (count + grain - 1) / grain);
  if (workers <= 1 || at::in_parallel_region()) {
    // Not a plain call: LibTorch numbers the thread 0 in it.
    return at::parallel_for(0, count, std::max<int64_t>(1, count), body);
  }
  std::atomic<int64_t> next{0};
  at::parallel_for(0, workers, 1, [&](int64_t, int64_t) {
    int64_t begin = next.load(std::memory_order_relaxed);
    while (begin < count) {
      const int64_t part = (count - begin) / (2 * workers);
      const int64_t end = std::min(count, begin + std::max(grain, part));
      if (!next.compare_exchange_weak(begin, end, std::memory_order_relaxed)) continue;
      body(begin, end);
      begin = next.load(std::memory_order_relaxed);
    }
  });
}

}  // namespace evolora
