#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace evolora {

// A read-only memory map of one regular file. The bytes live as long as the object.
class MappedFile {
 public:
  virtual ~MappedFile() = default;
  virtual absl::Span<const uint8_t> bytes() const = 0;
};

// The file system as a seam, so that tests can fail the n-th write. Paths are UTF-8, "/"-separated.
// Errors everywhere: NotFound, PermissionDenied, ResourceExhausted (disk full), FailedPrecondition
// (not a regular file), Internal; the message names path and operation. Thread-safe.
class FileSystem {
 public:
  virtual ~FileSystem() = default;

  // Whole file. ResourceExhausted when it is larger than `max_bytes`.
  virtual absl::StatusOr<std::string> ReadFile(const std::string& path,
                                               uint64_t max_bytes) const = 0;
  virtual absl::StatusOr<std::unique_ptr<MappedFile>> Map(const std::string& path) const = 0;
  virtual bool Exists(const std::string& path) const = 0;
  virtual absl::StatusOr<uint64_t> FileSize(const std::string& path) const = 0;
  // Names (not paths) of the entries, sorted by byte.
  virtual absl::StatusOr<std::vector<std::string>> ListDirectory(const std::string& path) const = 0;

  // Creates the folder and its parents; OK when it is there already.
  virtual absl::Status CreateDirectories(const std::string& path) = 0;
  // Durable replacement: temp file in the same folder, fsync, rename, fsync folder.
  // After a crash the path holds the old or the new bytes, nothing else; a file named
  // "<path>.tmp-..." may be left behind and may be removed. `mode` as in chmod.
  virtual absl::Status WriteFileAtomic(const std::string& path, absl::string_view bytes,
                                       uint32_t mode = 0644) = 0;
  // The same for content produced in pieces: `write` gets the temp path and leaves a complete,
  // closed file there (libraries such as HDF5 write by path); a non-OK status removes it.
  virtual absl::Status ReplaceFile(
      const std::string& path,
      const std::function<absl::Status(const std::string& temp_path)>& write,
      uint32_t mode = 0644) = 0;
  virtual absl::Status Rename(const std::string& from, const std::string& to) = 0;
  // OK when the file is not there.
  virtual absl::Status RemoveFile(const std::string& path) = 0;
  // Removes a folder and all below it; OK when it is not there.
  virtual absl::Status RemoveTree(const std::string& path) = 0;
};

// The POSIX file system. Never destroyed.
FileSystem& PosixFileSystem();

// "a" + "b" -> "a/b"; an absolute `name` is a programmer's error.
std::string JoinPath(absl::string_view directory, absl::string_view name);

}  // namespace evolora
