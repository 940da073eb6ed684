#include "evolora/trainers/work_folder_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "evolora/core/file_system.h"

namespace evolora {
namespace {

absl::Status Failure(const std::string& path, int error) {
  const std::string message = absl::StrCat(path, ": ", std::generic_category().message(error));
  switch (error) {
    case ENOENT:
      return absl::NotFoundError(message);
    case EACCES:
    case EROFS:
      return absl::PermissionDeniedError(message);
    case ENOSPC:
    case EDQUOT:
    case EMFILE:
    case ENFILE:
    case ENOLCK:
      return absl::ResourceExhaustedError(message);
    default:
      return absl::InternalError(message);
  }
}

std::string HolderOf(int file) {
  char text[24];
  const ssize_t count = ::pread(file, text, sizeof(text), 0);
  return count > 0 ? std::string(text, static_cast<size_t>(count)) : "of unknown id";
}

}  // namespace

absl::StatusOr<WorkFolderLock> WorkFolderLock::Take(const std::string& folder) {
  const std::string path = JoinPath(folder, "lock");
  const int file = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (file < 0) return Failure(path, errno);
  WorkFolderLock lock(file);
  if (::flock(file, LOCK_EX | LOCK_NB) != 0) {
    if (errno != EWOULDBLOCK) return Failure(path, errno);
    return absl::FailedPreconditionError(
        absl::StrCat(folder, ": process ", HolderOf(file), " trains here; one run at a time"));
  }
  const std::string holder = absl::StrCat(::getpid());
  if (::ftruncate(file, 0) != 0 || ::pwrite(file, holder.data(), holder.size(), 0) < 0) {
    return Failure(path, errno);
  }
  return lock;
}

WorkFolderLock::WorkFolderLock(WorkFolderLock&& other) noexcept
    : file_(std::exchange(other.file_, -1)) {}

WorkFolderLock::~WorkFolderLock() {
  if (file_ >= 0) ::close(file_);
}

}  // namespace evolora
