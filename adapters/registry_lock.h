#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace evolora {

// An exclusive flock on one file, held as long as the object lives; the kernel lets go of it when
// the process dies. The file holds the owner's process id, for messages only.
class HomeLock {
 public:
  // Unavailable when another process (or another HomeLock) has it.
  static absl::StatusOr<std::unique_ptr<HomeLock>> Acquire(const std::string& path);
  ~HomeLock();
  HomeLock(const HomeLock&) = delete;
  HomeLock& operator=(const HomeLock&) = delete;

 private:
  explicit HomeLock(int fd) : fd_(fd) {}
  int fd_;
};

}  // namespace evolora
