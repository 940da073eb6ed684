#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "evolora/adapters/registry.h"
#include "evolora/core/sqlite.h"
#include "evolora/core/status_macros.h"
#include "registry_lock.h"
#include "registry_rows.h"

namespace evolora {

inline constexpr char kChampion[] = "champion";
inline constexpr char kPrevious[] = "previous";

struct Registry::Impl {
  Impl(const BlobStore& blob_store, const Clock& real_clock)
      : blobs(blob_store), clock(real_clock) {}

  // Runs `body` in one write transaction; nothing of it remains when it fails.
  absl::Status Write(const std::function<absl::Status(RegistryRows&)>& body) {
    const absl::MutexLock lock(&mutex);
    return Explain(db->InTransaction([&] {
      RegistryRows rows(*db, clock.NowUnixMs());
      return body(rows);
    }));
  }
  // Runs `body` over the committed rows. This process is the only writer, so they stand still.
  absl::Status Read(const std::function<absl::Status(RegistryRows&)>& body) {
    const absl::MutexLock lock(&mutex);
    RegistryRows rows(*db, 0);
    return Explain(body(rows));
  }
  static absl::Status Explain(const absl::Status& status) {
    if (!absl::IsUnavailable(status)) return status;
    return absl::UnavailableError(absl::StrCat(
        status.message(), " (another program holds the registry database; try again)"));
  }

  std::unique_ptr<HomeLock> home_lock;
  BlobStore blobs;
  const Clock& clock;
  absl::Mutex mutex;
  std::unique_ptr<Sqlite> db ABSL_PT_GUARDED_BY(mutex);
};

// InvalidArgument for an empty reason, else the reason as valid UTF-8.
inline absl::StatusOr<std::string> CheckedReason(absl::string_view reason) {
  if (reason.empty()) return absl::InvalidArgumentError("registry: a reason is required");
  return ReplaceInvalidUtf8(reason);
}

// Every blob the manifest names, with its bytes; the error names field and digest.
absl::Status CheckManifestBlobs(const BlobStore& blobs, const VersionManifest& manifest);

// Changes the state along the allowed transitions; staying is no change.
inline absl::Status ChangeState(RegistryRows& rows, const VersionRecord& version, VersionState to,
                                absl::string_view reason) {
  if (version.state == to) return absl::OkStatus();
  if (!IsTransitionAllowed(version.state, to)) {
    return absl::FailedPreconditionError(absl::StrCat("version ", version.id, " is ",
                                                      VersionStateName(version.state),
                                                      "; it cannot become ", VersionStateName(to)));
  }
  return rows.UpdateState(version.id, version.state, to, reason);
}

}  // namespace evolora
