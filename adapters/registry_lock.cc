#include "registry_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "evolora/core/check.h"

namespace evolora {
namespace {

std::string OwnerOf(int fd) {
  char text[32];
  const ssize_t got = ::pread(fd, text, sizeof(text), 0);
  std::string owner(text, got > 0 ? static_cast<size_t>(got) : 0);
  return owner.empty() ? "?" : owner;
}

}  // namespace

absl::StatusOr<std::unique_ptr<HomeLock>> HomeLock::Acquire(const std::string& path) {
  const int fd = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0644);
  if (fd < 0) {
    return absl::Status(
        errno == EACCES ? absl::StatusCode::kPermissionDenied : absl::StatusCode::kInternal,
        absl::StrCat("open ", path, ": ", std::generic_category().message(errno)));
  }
  std::unique_ptr<HomeLock> lock(new HomeLock(fd));
  if (::flock(fd, LOCK_EX | LOCK_NB) != 0) {
    return absl::UnavailableError(
        absl::StrCat(path, ": in use by process ", OwnerOf(fd), "; one process at a time"));
  }
  const std::string owner = absl::StrCat(::getpid());
  if (::ftruncate(fd, 0) != 0 ||
      ::pwrite(fd, owner.data(), owner.size(), 0) != static_cast<ssize_t>(owner.size())) {
    return absl::ResourceExhaustedError(
        absl::StrCat("write ", path, ": ", std::generic_category().message(errno)));
  }
  return lock;
}

HomeLock::~HomeLock() { ::close(fd_); }

}  // namespace evolora
