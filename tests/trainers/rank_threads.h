#pragma once

#include <cstdlib>
#include <functional>
#include <thread>
#include <vector>

#include "evolora/trainers/process_group.h"
#include "support/free_port.h"

namespace evolora::testing {

// Calls body with the options of each of `size` ranks, on a thread each, and waits for all. A group
// knows nothing of processes, but c10d's flight recorder does: it keeps a list of a process's
// groups and adds to it without a lock, so it is turned off.
inline void OnRankThreads(int size, const std::function<void(const ProcessGroupOptions&)>& body) {
  setenv("TORCH_FR_BUFFER_SIZE", "0", /*overwrite=*/1);
  const int port = FreePort();
  std::vector<std::thread> ranks;
  for (int rank = 0; rank < size; ++rank) {
    ranks.emplace_back(
        body, ProcessGroupOptions{.rank = rank, .size = size, .port = port, .timeout_seconds = 60});
  }
  for (std::thread& rank : ranks) rank.join();
}

}  // namespace evolora::testing
