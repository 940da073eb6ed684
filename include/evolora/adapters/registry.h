#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "evolora/adapters/blob_store.h"
#include "evolora/adapters/gate.h"
#include "evolora/adapters/manifest.h"
#include "evolora/core/clock.h"
#include "evolora/core/file_system.h"
#include "evolora/core/json.h"

namespace evolora {

// staged       registered, not judged        -> gated eligible rejected retired quarantined
// gated        judged, inconclusive          -> eligible rejected retired quarantined
// eligible     judged good; may be champion  -> gated rejected retired quarantined
// rejected     judged bad                    -> gated eligible retired quarantined
// retired      no longer wanted              -> eligible quarantined
// quarantined  found harmful; no alias       -> staged retired
// A verdict moves a version to gated, eligible or rejected; an override to eligible. SetState
// serves the rest: retired, quarantined, back to eligible from retired, back to staged from
// quarantined.
enum class VersionState { kStaged, kGated, kEligible, kRejected, kRetired, kQuarantined };
const char* VersionStateName(VersionState state);
bool IsTransitionAllowed(VersionState from, VersionState to);

struct VersionRecord {
  std::string id;
  int64_t seq = 0;  // 1, 2, .. in order of registration, without gaps
  VersionManifest manifest;
  VersionState state = VersionState::kStaged;
  std::string state_reason;
  int64_t created_unix_ms = 0;
};

struct AliasRecord {
  std::string name;
  std::string version_id;  // "" = points nowhere
  int64_t epoch = 0;       // grows by one with every move; 0 = never set
  int64_t updated_unix_ms = 0;
};

// A compare-and-set move of one alias.
struct AliasMove {
  std::string alias;
  std::string version_id;      // full id
  int64_t expected_epoch = 0;  // epoch the caller saw; 0 = alias never set
  std::string reason;          // for the log; not empty
  // Only for `champion`: admits a version without a fresh passing verdict (first version,
  // operator's decision). Logged. "" = no override.
  std::string override_reason;
};

struct RollbackRequest {
  std::string alias;
  std::string version_id;  // full id of a version the alias held before; "" = the one before
  std::optional<int64_t> expected_epoch;  // absent: whatever it is
  std::string reason;                     // not empty
};

// One move, append-only. kind: move, rollback, follow (`previous` behind `champion`) or clear.
struct AliasLogRow {
  int64_t id = 0;
  std::string alias;
  std::string kind;
  std::string from_version;
  std::string to_version;
  int64_t epoch = 0;  // after the move
  std::string reason;
  std::string override_reason;
  std::string verdict;  // digest of the verdict that allowed it, or ""
  int64_t at_unix_ms = 0;
};

// An event for other systems, written in the transaction of the change it tells of. A consumer
// keeps the last id it has handled. topic: alias.moved or version.state.
struct OutboxEvent {
  int64_t id = 0;
  std::string topic;
  Json payload;
  int64_t at_unix_ms = 0;
};

struct ServingName {
  std::string slot;
  std::string digest;
  std::string name;  // AdapterServingName
};

struct RegistryOptions {
  int busy_timeout_ms = 2000;  // how long to wait for a program that reads the database
};

// The versions of one home folder, their states, aliases and history.
//
//   <home>/registry.db     SQLite: rollback journal, synchronous=EXTRA, STRICT tables, foreign keys
//   <home>/registry.lock   flock: one process (one Registry) at a time
//   <home>/blobs/          BlobStore: adapters, artifact documents, evidence, verdicts
//
// Every change is one transaction: after a crash at any point a new Open finds the old state or the
// new one. Blobs are written before the row that names them; an orphan blob does no harm.
//
// Threads: safe, one call at a time (one mutex).
// Errors of every call: Unavailable  another program holds the database; try again
//                       DataLoss     the file is damaged, or a blob is
//                       ResourceExhausted  disk full
// Reasons are kept as valid UTF-8 (bad bytes become U+FFFD) and must not be empty.
class Registry {
 public:
  // Opens or creates the registry in `home` (created). `files` and `clock` must outlive it.
  // Errors: Unavailable         another process has this home open
  //         FailedPrecondition  made by a newer evolora, or the database belongs to another program
  static absl::StatusOr<std::unique_ptr<Registry>> Open(const std::string& home, FileSystem& files,
                                                        const Clock& clock,
                                                        const RegistryOptions& options = {});
  ~Registry();
  Registry(const Registry&) = delete;
  Registry& operator=(const Registry&) = delete;

  BlobStore& blobs();

  // Commits a version. Idempotent: equal content gives the record that is there, unchanged.
  // A manifest with a verdict starts in the state that verdict gives (judged against parents[0]),
  // one without starts staged.
  // Errors: InvalidArgument     ValidateManifest, or the verdict blob is no verdict
  //         NotFound            a parent or a blob is missing (named)
  absl::StatusOr<VersionRecord> Register(const VersionManifest& manifest);

  // `name`: full id, unique prefix of it (>= 6 digits) or alias.
  // Errors: NotFound; InvalidArgument for a prefix that fits several versions.
  absl::StatusOr<VersionRecord> Resolve(absl::string_view name) const;
  // All versions by seq.
  absl::StatusOr<std::vector<VersionRecord>> List() const;
  // Names of the version's adapters on servers, in slot order of the manifest.
  absl::StatusOr<std::vector<ServingName>> ServingNames(absl::string_view version_id) const;

  // Keeps the verdict on `version_id`, judged against `baseline_id` ("" = no champion), and sets
  // the state: pass -> eligible, fail -> rejected, inconclusive -> gated. Returns the verdict's
  // digest. Idempotent. FailedPrecondition: the state forbids it, or a version that is champion
  // would lose its eligibility (roll back first).
  absl::StatusOr<std::string> RecordVerdict(absl::string_view version_id,
                                            absl::string_view baseline_id,
                                            const GateVerdict& verdict);
  // Retiring and quarantine also clear the aliases that point at the version, in the same
  // transaction. FailedPrecondition: transition not allowed, or `champion` holds the version (roll
  // back first). Idempotent for the present state.
  absl::Status SetState(absl::string_view version_id, VersionState state, absl::string_view reason);

  // Moves an alias in one transaction: state check, verdict check, epoch check, alias row, log row,
  // outbox event. `previous` follows `champion` by itself and cannot be moved by callers.
  //   champion   needs an eligible version whose latest verdict is a pass judged against the
  //   present
  //              champion, or override_reason (from staged, gated, rejected or eligible)
  //   others     any version that is neither retired nor quarantined
  // A move to where the alias already points changes nothing and logs nothing.
  // Errors: InvalidArgument     alias name, empty reason, override for another alias
  //         NotFound            version
  //         FailedPrecondition  epoch differs (message has both), state, no fresh verdict
  absl::StatusOr<AliasRecord> MoveAlias(const AliasMove& move);
  // The same towards a version the alias held before; it needs no new verdict but the state that
  // the alias requires. "The one before" undoes moves like a stack: a second rollback goes further
  // back.
  absl::StatusOr<AliasRecord> Rollback(const RollbackRequest& request);
  // Epoch 0 and no version for an alias that was never set.
  absl::StatusOr<AliasRecord> GetAlias(absl::string_view alias) const;
  absl::StatusOr<std::vector<AliasRecord>> ListAliases() const;

  // Rows with id > `after_id`, oldest first, at most `limit`; `alias` "" = all.
  absl::StatusOr<std::vector<AliasLogRow>> Log(absl::string_view alias, int64_t after_id = 0,
                                               int64_t limit = 1000) const;
  absl::StatusOr<std::vector<OutboxEvent>> Outbox(int64_t after_id, int64_t limit = 1000) const;

  // Everything that can be checked: SQLite integrity and foreign keys, each manifest against its
  // id, each blob against its digest, each alias epoch against the log. DataLoss names the first
  // fault.
  absl::Status CheckIntegrity() const;

 private:
  struct Impl;
  explicit Registry(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// [a-z][a-z0-9._-]{0,62} that cannot be taken for a version: not six or more hex digits only, not
// "v" and digits.
bool IsAliasName(absl::string_view text);

}  // namespace evolora
