#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "evolora/adapters/registry.h"
#include "evolora/core/sqlite.h"

namespace evolora {

// Row-level access to the registry database. No rule of the registry lives here. Functions that
// write belong inside a transaction of the caller.
class RegistryRows {
 public:
  // `db` is not owned. `now_unix_ms` is stamped on every row written.
  RegistryRows(Sqlite& db, int64_t now_unix_ms) : db_(db), now_unix_ms_(now_unix_ms) {}

  struct VerdictRow {
    std::string baseline_id;
    std::string digest;
    GateOutcome outcome = GateOutcome::kInconclusive;
  };

  // Versions. Reading checks that the stored manifest hashes to the id (DataLoss).
  absl::StatusOr<VersionRecord> GetVersion(absl::string_view id);  // NotFound
  absl::StatusOr<bool> HasVersion(absl::string_view id);
  absl::StatusOr<std::vector<VersionRecord>> ListVersions();
  // At most two ids that start with `prefix` (hex digits).
  absl::StatusOr<std::vector<std::string>> IdsWithPrefix(absl::string_view prefix);
  // Version row, parents and serving names.
  absl::Status InsertVersion(const std::string& id, const VersionManifest& manifest,
                             VersionState state, absl::string_view state_reason);
  // State row and outbox event.
  absl::Status UpdateState(absl::string_view id, VersionState from, VersionState to,
                           absl::string_view reason);
  // Seq of the version that brought these weights to the slot. NotFound.
  absl::StatusOr<int64_t> FirstSeq(absl::string_view slot, absl::string_view digest);

  // False: the row was there already.
  absl::StatusOr<bool> InsertVerdict(absl::string_view version_id, const VerdictRow& row);
  absl::StatusOr<std::optional<VerdictRow>> LatestVerdict(absl::string_view version_id);

  absl::StatusOr<std::vector<std::string>> VerdictDigests();

  absl::StatusOr<AliasRecord> GetAlias(absl::string_view name);  // epoch 0 when never set
  absl::StatusOr<std::vector<AliasRecord>> ListAliases();
  // Alias row, log row and outbox event. Takes alias, kind, to_version, reason, override_reason and
  // verdict from `row`; fills the rest.
  absl::StatusOr<AliasRecord> WriteAlias(const AliasLogRow& row);
  absl::StatusOr<std::vector<AliasLogRow>> ReadLog(absl::string_view alias, int64_t after_id,
                                                   int64_t limit);
  absl::StatusOr<std::vector<OutboxEvent>> ReadOutbox(int64_t after_id, int64_t limit);

 private:
  absl::Status InsertEvent(absl::string_view topic, const Json& payload);

  Sqlite& db_;
  int64_t now_unix_ms_;
};

}  // namespace evolora
