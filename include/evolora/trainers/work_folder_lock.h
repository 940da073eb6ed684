#pragma once

#include <string>

#include "absl/status/statusor.h"

namespace evolora {

// Keeps a second run out of a work folder: an exclusive flock on `folder`/lock, held as long as the
// object lives. The kernel lets go of it when the process dies, however it dies; the file stays and
// names its last holder's process id, for messages only. Not inherited by programs that are
// executed.
class WorkFolderLock {
 public:
  // Errors: FailedPrecondition another holder (names the folder and the holder's process id);
  //         NotFound no such folder; PermissionDenied; ResourceExhausted.
  static absl::StatusOr<WorkFolderLock> Take(const std::string& folder);
  WorkFolderLock(WorkFolderLock&& other) noexcept;
  WorkFolderLock& operator=(WorkFolderLock&&) = delete;
  ~WorkFolderLock();

 private:
  explicit WorkFolderLock(int file) : file_(file) {}
  int file_;
};

}  // namespace evolora
