#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "evolora/core/file_system.h"

namespace evolora::testing {

// What the n-th mutating call leaves behind when the process dies in it.
enum class CrashPoint {
  kBefore,  // nothing has happened yet
  kTorn,  // a write leaves a part of its bytes in a "<path>.tmp-crash" file; other calls as kBefore
  kAfter,  // all has happened, but the caller never learns it
};

// A file system that fails or dies at the n-th mutating call, to test what is found afterwards.
// Mutating calls: CreateDirectories, WriteFileAtomic, ReplaceFile, Rename, RemoveFile, RemoveTree.
//
//   for (int n = 1;; ++n) {
//     FailingFileSystem fs(PosixFileSystem());
//     fs.CrashAt(n, CrashPoint::kTorn);
//     Commit(fs, ...);              // result does not matter: the process is dead
//     if (!fs.crashed()) break;     // n is past the last call: every crash has been tried
//     ExpectOldOrNew(PosixFileSystem());
//   }
//
// `target` is not owned and must outlive the object. Thread-safe.
class FailingFileSystem final : public FileSystem {
 public:
  explicit FailingFileSystem(FileSystem& target) : target_(target) {}

  // The n-th mutating call from the start (1 = first) does nothing and returns `status`; the calls
  // after it work again.
  void FailAt(int n, absl::Status status);
  // The n-th mutating call is the last one of this process: it and every later call, reading ones
  // too, return Unavailable ("crashed"); Exists returns false.
  void CrashAt(int n, CrashPoint point);

  int num_mutations() const;  // mutating calls so far, the failed ones too
  bool crashed() const;

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

 private:
  absl::Status Alive() const;
  // Counts one mutating call and runs `act`, `tear` or nothing, as the plan says.
  absl::Status Mutate(const std::function<absl::Status()>& act, const std::function<void()>& tear);

  FileSystem& target_;
  mutable std::mutex mutex_;
  int num_mutations_ ABSL_GUARDED_BY(mutex_) = 0;
  int fail_at_ ABSL_GUARDED_BY(mutex_) = 0;
  absl::Status fail_status_ ABSL_GUARDED_BY(mutex_);
  int crash_at_ ABSL_GUARDED_BY(mutex_) = 0;
  CrashPoint crash_point_ ABSL_GUARDED_BY(mutex_) = CrashPoint::kBefore;
  bool crashed_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace evolora::testing
