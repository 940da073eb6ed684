#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"
#include "absl/types/span.h"
#include "evolora/core/json.h"
#include "evolora/core/sqlite.h"
#include "evolora/data/stream.h"

namespace evolora {

enum class EvidenceKind {
  kEpisode,
  kProbe,
  kDiagnosis,
  kDecision,
  kTicketEvent,
  kVerdict,
  kLook,
  kCheckpoint,
};
const char* EvidenceKindName(EvidenceKind kind);

struct Evidence {
  EvidenceKind kind = EvidenceKind::kEpisode;
  std::string run_id;
  std::string key;  // unique within (kind, run)
  Json value;       // strings must be valid UTF-8
};

struct StoredEvidence {
  int64_t sequence = 0;  // rises by insertion over the whole store
  Evidence evidence;
  std::string digest;  // SHA-256 of the value's canonical JSON
};

// One memoised completion; the value's form belongs to the caller (eval/memo_model.h).
struct MemoEntry {
  std::string hash;  // SHA-256 hex of the request
  Json value;
};

struct EvidenceStoreOptions {
  bool create = true;           // make the file when it is absent; else NotFound
  bool check_integrity = true;  // SQLite's quick check when opening; time is linear in the size
};

// What evolora has seen and decided, append only, in one SQLite file. It lies outside the versioned
// state, so a rollback of the state never loses evidence.
//
// Nothing is ever updated or deleted: no method does, and triggers in the file refuse it to any
// other connection. A call that returned OK is durable (rollback journal, synchronous=FULL); one
// that failed left nothing behind.
//
// Errors everywhere: DataLoss (corrupt file, or a row that does not match its digest), Unavailable
//   (another process holds the lock), ResourceExhausted (disk full); see core/sqlite.h.
// Threads: safe; one mutex.
class EvidenceStore {
 public:
  static constexpr int kSchemaVersion = 1;

  // Errors: FailedPrecondition the file is another program's database, or its schema is newer than
  //           kSchemaVersion (the message names both numbers); NotFound; DataLoss.
  static absl::StatusOr<std::unique_ptr<EvidenceStore>> Open(
      const std::string& path, const EvidenceStoreOptions& options = {});

  // Keeps one piece of evidence. Idempotent: the same key with the same content is OK.
  //
  // Errors: FailedPrecondition the key is there with other content (both digests are named)
  //         InvalidArgument    empty run id or key, or a value that is not valid UTF-8
  absl::Status Append(EvidenceKind kind, const std::string& run_id, const std::string& key,
                      const Json& value);
  // All or nothing, in one transaction.
  absl::Status AppendAll(absl::Span<const Evidence> rows);

  // NotFound when the key is not there.
  absl::StatusOr<Json> Get(EvidenceKind kind, const std::string& run_id,
                           const std::string& key) const;
  // Rows of one run in insertion order, those after `after_sequence`, at most `limit`.
  absl::StatusOr<std::vector<StoredEvidence>> List(EvidenceKind kind, const std::string& run_id,
                                                   int64_t after_sequence = 0,
                                                   int64_t limit = INT64_MAX) const;
  // The same over all runs.
  absl::StatusOr<std::vector<StoredEvidence>> ListAllRuns(EvidenceKind kind) const;
  absl::StatusOr<int64_t> Count(EvidenceKind kind, const std::string& run_id) const;
  // Run ids in the order of their first row.
  absl::StatusOr<std::vector<std::string>> ListRuns() const;

  // The memo table. Get: NotFound when absent. Put: one transaction, idempotent as Append.
  absl::StatusOr<Json> GetCompletion(const std::string& hash) const;
  absl::Status PutCompletions(absl::Span<const MemoEntry> entries);
  absl::StatusOr<int64_t> CountCompletions() const;

 private:
  explicit EvidenceStore(std::unique_ptr<Sqlite> db) : db_(std::move(db)) {}
  absl::Status Migrate() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status AppendRow(const Evidence& row) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status PutCompletion(const MemoEntry& entry) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::StatusOr<std::vector<StoredEvidence>> Select(SqliteStatement statement) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  mutable absl::Mutex mutex_;
  std::unique_ptr<Sqlite> db_ ABSL_PT_GUARDED_BY(mutex_);
};

// Records looks as evidence of one run. A run that was killed and goes on under the same run id
// repeats its looks for the same reason, and these count once; every other opening counts.
// Does not own `store`, which must outlive it. Thread-safe.
class StoreLookRecorder : public LookRecorder {
 public:
  StoreLookRecorder(EvidenceStore& store, std::string run_id)
      : store_(&store), run_id_(std::move(run_id)) {}
  absl::StatusOr<int64_t> RecordLook(const Look& look) override;

 private:
  EvidenceStore* store_;
  std::string run_id_;
};

}  // namespace evolora
