#include <dirent.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "evolora/core/check.h"
#include "evolora/core/file_system.h"
#include "evolora/core/status_macros.h"

namespace evolora {
namespace {

absl::StatusCode CodeOfErrno(int error) {
  switch (error) {
    case ENOENT:
      return absl::StatusCode::kNotFound;
    case EACCES:
    case EPERM:
    case EROFS:
      return absl::StatusCode::kPermissionDenied;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
    case EMFILE:
    case ENFILE:
    case ENOMEM:
      return absl::StatusCode::kResourceExhausted;
    case ENOTDIR:
    case EISDIR:
    case EEXIST:
    case ENOTEMPTY:
    case ELOOP:
    case EXDEV:
      return absl::StatusCode::kFailedPrecondition;
    default:
      return absl::StatusCode::kInternal;
  }
}

absl::Status ErrnoStatus(absl::string_view operation, const std::string& path, int error) {
  return absl::Status(CodeOfErrno(error), absl::StrCat(operation, " ", path, ": ",
                                                       std::generic_category().message(error)));
}

absl::Status NotRegular(absl::string_view operation, const std::string& path) {
  return absl::FailedPreconditionError(absl::StrCat(operation, " ", path, ": not a regular file"));
}

// An open descriptor, closed with the object.
class Descriptor {
 public:
  explicit Descriptor(int fd) : fd_(fd) {}
  ~Descriptor() {
    if (fd_ >= 0) ::close(fd_);
  }
  Descriptor(Descriptor&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  Descriptor& operator=(Descriptor&&) = delete;

  int get() const { return fd_; }
  // 0, or the errno: close() is the last place where a full disk may speak.
  int Close() { return ::close(std::exchange(fd_, -1)) == 0 ? 0 : errno; }

 private:
  int fd_;
};

int OpenRetrying(const std::string& path, int flags, mode_t mode = 0) {
  for (;;) {
    const int fd = ::open(path.c_str(), flags | O_CLOEXEC, mode);
    if (fd >= 0 || errno != EINTR) return fd;
  }
}

// O_NONBLOCK: opening a pipe must not wait for its writer; regular files ignore it.
absl::StatusOr<std::pair<Descriptor, uint64_t>> OpenRegular(absl::string_view operation,
                                                            const std::string& path) {
  Descriptor file(OpenRetrying(path, O_RDONLY | O_NONBLOCK));
  if (file.get() < 0) return ErrnoStatus(operation, path, errno);
  struct stat info {};
  if (::fstat(file.get(), &info) != 0) return ErrnoStatus(operation, path, errno);
  if (!S_ISREG(info.st_mode)) return NotRegular(operation, path);
  return std::pair<Descriptor, uint64_t>(std::move(file), static_cast<uint64_t>(info.st_size));
}

std::string ParentOf(const std::string& path) {
  const std::string parent = std::filesystem::path(path).parent_path().string();
  return parent.empty() ? "." : parent;
}

absl::Status SyncDirectory(const std::string& path) {
  Descriptor directory(OpenRetrying(path, O_RDONLY | O_DIRECTORY));
  if (directory.get() < 0) return ErrnoStatus("sync folder", path, errno);
  // EINVAL: some network file systems cannot sync a folder; they order renames themselves.
  if (::fsync(directory.get()) != 0 && errno != EINVAL) {
    return ErrnoStatus("sync folder", path, errno);
  }
  return absl::OkStatus();
}

absl::Status WriteAll(const Descriptor& file, const std::string& path, absl::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t written = ::write(file.get(), bytes.data(), bytes.size());
    if (written < 0) {
      if (errno == EINTR) continue;
      return ErrnoStatus("write", path, errno);
    }
    bytes.remove_prefix(static_cast<size_t>(written));
  }
  return absl::OkStatus();
}

// A name beside `path` that no file has: process id and counter; one left by a crash is passed
// over.
std::string FreeTempPath(const std::string& path) {
  static std::atomic<uint64_t> counter{0};
  for (;;) {
    std::string temp = absl::StrCat(path, ".tmp-", ::getpid(), "-", counter.fetch_add(1));
    struct stat info {};
    if (::lstat(temp.c_str(), &info) != 0) return temp;
  }
}

// Makes the complete file at `temp` durable under `path`.
absl::Status Publish(const std::string& temp, const std::string& path, uint32_t mode) {
  Descriptor file(OpenRetrying(temp, O_RDONLY | O_NOFOLLOW | O_NONBLOCK));
  if (file.get() < 0) return ErrnoStatus("open", temp, errno);
  struct stat info {};
  if (::fstat(file.get(), &info) != 0) return ErrnoStatus("stat", temp, errno);
  if (!S_ISREG(info.st_mode)) return NotRegular("replace", temp);
  if (::fchmod(file.get(), static_cast<mode_t>(mode)) != 0)
    return ErrnoStatus("chmod", temp, errno);
  if (::fsync(file.get()) != 0) return ErrnoStatus("sync", temp, errno);
  if (const int error = file.Close(); error != 0) return ErrnoStatus("close", temp, error);
  if (::rename(temp.c_str(), path.c_str()) != 0) {
    return ErrnoStatus("rename", absl::StrCat(temp, " to ", path), errno);
  }
  return SyncDirectory(ParentOf(path));
}

class PosixMappedFile final : public MappedFile {
 public:
  PosixMappedFile(void* data, size_t num_bytes) : data_(data), num_bytes_(num_bytes) {}
  ~PosixMappedFile() override {
    if (num_bytes_ > 0) ::munmap(data_, num_bytes_);
  }
  PosixMappedFile(const PosixMappedFile&) = delete;
  PosixMappedFile& operator=(const PosixMappedFile&) = delete;

  absl::Span<const uint8_t> bytes() const override {
    return {static_cast<const uint8_t*>(data_), num_bytes_};
  }

 private:
  void* data_;
  size_t num_bytes_;
};

class RealFileSystem final : public FileSystem {
 public:
  absl::StatusOr<std::string> ReadFile(const std::string& path, uint64_t max_bytes) const override;
  absl::StatusOr<std::unique_ptr<MappedFile>> Map(const std::string& path) const override;
  bool Exists(const std::string& path) const override;
  absl::StatusOr<uint64_t> FileSize(const std::string& path) const override;
  absl::StatusOr<std::vector<std::string>> ListDirectory(const std::string& path) const override;
  absl::Status CreateDirectories(const std::string& path) override;
  absl::Status WriteFileAtomic(const std::string& path, absl::string_view bytes,
                               uint32_t mode) override;
  absl::Status ReplaceFile(const std::string& path,
                           const std::function<absl::Status(const std::string&)>& write,
                           uint32_t mode) override;
  absl::Status Rename(const std::string& from, const std::string& to) override;
  absl::Status RemoveFile(const std::string& path) override;
  absl::Status RemoveTree(const std::string& path) override;
};

absl::StatusOr<std::string> RealFileSystem::ReadFile(const std::string& path,
                                                     uint64_t max_bytes) const {
  auto opened = OpenRegular("read", path);
  if (!opened.ok()) return opened.status();
  const auto& [file, size] = *opened;
  const auto too_large = [&](uint64_t at_least) {
    return absl::ResourceExhaustedError(
        absl::StrCat("read ", path, ": ", at_least, " bytes, the limit is ", max_bytes));
  };
  if (size > max_bytes) return too_large(size);
  std::string bytes(static_cast<size_t>(size) + 1, '\0');  // one more: sees a file that grows
  size_t filled = 0;
  for (;;) {
    const ssize_t got = ::read(file.get(), bytes.data() + filled, bytes.size() - filled);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return ErrnoStatus("read", path, errno);
    if (got == 0) break;
    filled += static_cast<size_t>(got);
    if (filled > max_bytes) return too_large(filled);
    if (filled == bytes.size()) bytes.resize(bytes.size() * 2);
  }
  bytes.resize(filled);
  return bytes;
}

absl::StatusOr<std::unique_ptr<MappedFile>> RealFileSystem::Map(const std::string& path) const {
  auto opened = OpenRegular("map", path);
  if (!opened.ok()) return opened.status();
  const auto& [file, size] = *opened;
  if (size == 0) return std::make_unique<PosixMappedFile>(nullptr, 0);
  void* data = ::mmap(nullptr, static_cast<size_t>(size), PROT_READ, MAP_PRIVATE, file.get(), 0);
  if (data == MAP_FAILED) return ErrnoStatus("map", path, errno);
  return std::make_unique<PosixMappedFile>(data, static_cast<size_t>(size));
}

bool RealFileSystem::Exists(const std::string& path) const {
  return ::access(path.c_str(), F_OK) == 0;
}

absl::StatusOr<uint64_t> RealFileSystem::FileSize(const std::string& path) const {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) return ErrnoStatus("size of", path, errno);
  if (!S_ISREG(info.st_mode)) return NotRegular("size of", path);
  return static_cast<uint64_t>(info.st_size);
}

absl::StatusOr<std::vector<std::string>> RealFileSystem::ListDirectory(
    const std::string& path) const {
  const auto close = [](DIR* directory) { ::closedir(directory); };
  std::unique_ptr<DIR, decltype(close)> directory(::opendir(path.c_str()), close);
  if (directory == nullptr) return ErrnoStatus("list", path, errno);
  std::vector<std::string> names;
  for (;;) {
    errno = 0;
    const dirent* entry = ::readdir(directory.get());
    if (entry == nullptr) break;
    const absl::string_view name = entry->d_name;
    if (name != "." && name != "..") names.emplace_back(name);
  }
  if (errno != 0) return ErrnoStatus("list", path, errno);
  std::sort(names.begin(), names.end());
  return names;
}

absl::Status RealFileSystem::CreateDirectories(const std::string& path) {
  struct stat info {};
  if (::stat(path.c_str(), &info) == 0) {
    return S_ISDIR(info.st_mode) ? absl::OkStatus() : ErrnoStatus("create folder", path, ENOTDIR);
  }
  if (errno != ENOENT) return ErrnoStatus("create folder", path, errno);
  const std::string parent = ParentOf(path);
  if (parent == path) return ErrnoStatus("create folder", path, ENOENT);
  RETURN_IF_ERROR(CreateDirectories(parent));
  if (::mkdir(path.c_str(), 0755) != 0 && errno != EEXIST) {
    return ErrnoStatus("create folder", path, errno);
  }
  return SyncDirectory(parent);
}

absl::Status RealFileSystem::WriteFileAtomic(const std::string& path, absl::string_view bytes,
                                             uint32_t mode) {
  const auto write = [bytes](const std::string& temp) -> absl::Status {
    Descriptor file(OpenRetrying(temp, O_WRONLY | O_CREAT | O_EXCL, 0600));
    if (file.get() < 0) return ErrnoStatus("create", temp, errno);
    RETURN_IF_ERROR(WriteAll(file, temp, bytes));
    const int error = file.Close();
    return error == 0 ? absl::OkStatus() : ErrnoStatus("close", temp, error);
  };
  return ReplaceFile(path, write, mode);
}

absl::Status RealFileSystem::ReplaceFile(
    const std::string& path, const std::function<absl::Status(const std::string&)>& write,
    uint32_t mode) {
  const std::string temp = FreeTempPath(path);
  absl::Status status = write(temp);
  if (status.ok()) status = Publish(temp, path, mode);
  if (!status.ok()) ::unlink(temp.c_str());
  return status;
}

absl::Status RealFileSystem::Rename(const std::string& from, const std::string& to) {
  if (::rename(from.c_str(), to.c_str()) != 0) {
    return ErrnoStatus("rename", absl::StrCat(from, " to ", to), errno);
  }
  RETURN_IF_ERROR(SyncDirectory(ParentOf(to)));
  return ParentOf(from) == ParentOf(to) ? absl::OkStatus() : SyncDirectory(ParentOf(from));
}

absl::Status RealFileSystem::RemoveFile(const std::string& path) {
  if (::unlink(path.c_str()) == 0) return SyncDirectory(ParentOf(path));
  return errno == ENOENT ? absl::OkStatus() : ErrnoStatus("remove", path, errno);
}

absl::Status RealFileSystem::RemoveTree(const std::string& path) {
  std::error_code error;
  std::filesystem::remove_all(path, error);
  return error ? ErrnoStatus("remove tree", path, error.value()) : absl::OkStatus();
}

}  // namespace

FileSystem& PosixFileSystem() {
  static FileSystem* const file_system = new RealFileSystem();
  return *file_system;
}

std::string JoinPath(absl::string_view directory, absl::string_view name) {
  EVOLORA_CHECK(name.empty() || name.front() != '/', "JoinPath joins a relative name");
  if (directory.empty()) return std::string(name);
  if (name.empty()) return std::string(directory);
  return absl::StrCat(directory, directory.back() == '/' ? "" : "/", name);
}

}  // namespace evolora
