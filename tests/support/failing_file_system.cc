#include "support/failing_file_system.h"

#include <filesystem>
#include <fstream>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "evolora/core/status_macros.h"

namespace evolora::testing {
namespace {

constexpr char kTornSuffix[] = ".tmp-crash";

void NoTear() {}

}  // namespace

void FailingFileSystem::FailAt(int n, absl::Status status) {
  std::lock_guard<std::mutex> lock(mutex_);
  fail_at_ = n;
  fail_status_ = std::move(status);
}

void FailingFileSystem::CrashAt(int n, CrashPoint point) {
  std::lock_guard<std::mutex> lock(mutex_);
  crash_at_ = n;
  crash_point_ = point;
}

int FailingFileSystem::num_mutations() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return num_mutations_;
}

bool FailingFileSystem::crashed() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return crashed_;
}

absl::Status FailingFileSystem::Alive() const {
  return crashed() ? absl::UnavailableError("the file system has crashed") : absl::OkStatus();
}

absl::Status FailingFileSystem::Mutate(const std::function<absl::Status()>& act,
                                       const std::function<void()>& tear) {
  RETURN_IF_ERROR(Alive());
  CrashPoint point = CrashPoint::kBefore;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    ++num_mutations_;
    if (num_mutations_ == fail_at_) return fail_status_;
    crashed_ = num_mutations_ == crash_at_;
    point = crash_point_;
  }
  if (!crashed()) return act();
  if (point == CrashPoint::kTorn) tear();
  if (point == CrashPoint::kAfter) act().IgnoreError();
  return Alive();
}

absl::StatusOr<std::string> FailingFileSystem::ReadFile(const std::string& path,
                                                        uint64_t max_bytes) const {
  RETURN_IF_ERROR(Alive());
  return target_.ReadFile(path, max_bytes);
}

absl::StatusOr<std::unique_ptr<MappedFile>> FailingFileSystem::Map(const std::string& path) const {
  RETURN_IF_ERROR(Alive());
  return target_.Map(path);
}

bool FailingFileSystem::Exists(const std::string& path) const {
  return !crashed() && target_.Exists(path);
}

absl::StatusOr<uint64_t> FailingFileSystem::FileSize(const std::string& path) const {
  RETURN_IF_ERROR(Alive());
  return target_.FileSize(path);
}

absl::StatusOr<std::vector<std::string>> FailingFileSystem::ListDirectory(
    const std::string& path) const {
  RETURN_IF_ERROR(Alive());
  return target_.ListDirectory(path);
}

absl::Status FailingFileSystem::CreateDirectories(const std::string& path) {
  return Mutate([&] { return target_.CreateDirectories(path); }, NoTear);
}

absl::Status FailingFileSystem::WriteFileAtomic(const std::string& path, absl::string_view bytes,
                                                uint32_t mode) {
  const auto tear = [&] {
    std::ofstream torn(path + kTornSuffix, std::ios::binary);
    torn.write(bytes.data(), static_cast<std::streamsize>(bytes.size() / 2));
  };
  return Mutate([&] { return target_.WriteFileAtomic(path, bytes, mode); }, tear);
}

absl::Status FailingFileSystem::ReplaceFile(
    const std::string& path, const std::function<absl::Status(const std::string&)>& write,
    uint32_t mode) {
  const auto tear = [&] {
    const std::string torn = path + kTornSuffix;
    write(torn).IgnoreError();
    std::error_code error;
    const auto num_bytes = std::filesystem::file_size(torn, error);
    if (!error) std::filesystem::resize_file(torn, num_bytes / 2, error);
  };
  return Mutate([&] { return target_.ReplaceFile(path, write, mode); }, tear);
}

absl::Status FailingFileSystem::Rename(const std::string& from, const std::string& to) {
  return Mutate([&] { return target_.Rename(from, to); }, NoTear);
}

absl::Status FailingFileSystem::RemoveFile(const std::string& path) {
  return Mutate([&] { return target_.RemoveFile(path); }, NoTear);
}

absl::Status FailingFileSystem::RemoveTree(const std::string& path) {
  return Mutate([&] { return target_.RemoveTree(path); }, NoTear);
}

}  // namespace evolora::testing
