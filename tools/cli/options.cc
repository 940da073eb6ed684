#include "options.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <thread>

#include "evolora/core/clock.h"
#include "evolora/core/file_system.h"

namespace evolora::cli {

int NumThreads(const GlobalOptions& options) {
  if (options.threads > 0) return options.threads;
  return static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
}

absl::StatusOr<std::unique_ptr<Home>> OpenHome(const GlobalOptions& options) {
  return Home::Open(options.home, PosixFileSystem(), SystemClock());
}

void FinishCommand(const absl::Status& status) {
  if (status.ok()) return;
  std::fprintf(stderr, "evolora: %s\n", std::string(status.message()).c_str());
  throw CommandExit{kFailed};
}

}  // namespace evolora::cli
