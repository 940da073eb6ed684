#include "registry_rows.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "evolora/core/sha256.h"
#include "evolora/core/status_macros.h"

namespace evolora {
namespace {

constexpr char kVersionColumns[] =
    "SELECT id, seq, manifest, state, state_reason, created_unix_ms FROM versions ";

absl::Status Damaged(absl::string_view what, absl::string_view id, absl::string_view why) {
  return absl::DataLossError(absl::StrCat("registry: ", what, " ", id, ": ", why));
}

absl::StatusOr<VersionState> StateFromName(const std::string& id, const std::string& name) {
  for (const VersionState state :
       {VersionState::kStaged, VersionState::kGated, VersionState::kEligible,
        VersionState::kRejected, VersionState::kRetired, VersionState::kQuarantined}) {
    if (name == VersionStateName(state)) return state;
  }
  return Damaged("version", id, absl::StrCat("state \"", name, "\""));
}

absl::StatusOr<VersionRecord> VersionFromRow(const SqliteStatement& row) {
  VersionRecord out{.id = row.Text(0),
                    .seq = row.Int64(1),
                    .state_reason = row.Text(4),
                    .created_unix_ms = row.Int64(5)};
  const std::string text = row.Text(2);
  if (Sha256Hex(text) != out.id) return Damaged("version", out.id, "its manifest has another hash");
  const absl::StatusOr<Json> json = ParseJson(text);
  if (!json.ok()) return Damaged("version", out.id, json.status().message());
  absl::StatusOr<VersionManifest> manifest = ManifestFromJson(*json);
  if (!manifest.ok()) return Damaged("version", out.id, manifest.status().message());
  out.manifest = *std::move(manifest);
  ASSIGN_OR_RETURN(out.state, StateFromName(out.id, row.Text(3)));
  return out;
}

AliasRecord AliasFromRow(const SqliteStatement& row) {
  return {.name = row.Text(0),
          .version_id = row.Text(1),
          .epoch = row.Int64(2),
          .updated_unix_ms = row.Int64(3)};
}

}  // namespace

absl::StatusOr<VersionRecord> RegistryRows::GetVersion(absl::string_view id) {
  ASSIGN_OR_RETURN(SqliteStatement query, db_.Prepare(absl::StrCat(kVersionColumns, "WHERE id=?")));
  query.BindText(1, id);
  ASSIGN_OR_RETURN(const bool found, query.Step());
  if (!found) return absl::NotFoundError(absl::StrCat("registry: no version ", id));
  return VersionFromRow(query);
}

absl::StatusOr<bool> RegistryRows::HasVersion(absl::string_view id) {
  ASSIGN_OR_RETURN(SqliteStatement query, db_.Prepare("SELECT 1 FROM versions WHERE id=?"));
  query.BindText(1, id);
  return query.Step();
}

absl::StatusOr<std::vector<VersionRecord>> RegistryRows::ListVersions() {
  ASSIGN_OR_RETURN(SqliteStatement query,
                   db_.Prepare(absl::StrCat(kVersionColumns, "ORDER BY seq")));
  std::vector<VersionRecord> out;
  for (;;) {
    ASSIGN_OR_RETURN(const bool more, query.Step());
    if (!more) return out;
    ASSIGN_OR_RETURN(VersionRecord record, VersionFromRow(query));
    out.push_back(std::move(record));
  }
}

absl::StatusOr<std::vector<std::string>> RegistryRows::IdsWithPrefix(absl::string_view prefix) {
  // 'g' follows every hex digit.
  ASSIGN_OR_RETURN(SqliteStatement query,
                   db_.Prepare("SELECT id FROM versions WHERE id >= ? AND id < ? || 'g' LIMIT 2"));
  query.BindText(1, prefix).BindText(2, prefix);
  std::vector<std::string> out;
  for (;;) {
    ASSIGN_OR_RETURN(const bool more, query.Step());
    if (!more) return out;
    out.push_back(query.Text(0));
  }
}

absl::Status RegistryRows::InsertVersion(const std::string& id, const VersionManifest& manifest,
                                         VersionState state, absl::string_view state_reason) {
  ASSIGN_OR_RETURN(SqliteStatement version,
                   db_.Prepare("INSERT INTO versions(id, manifest, state, state_reason, "
                               "created_unix_ms) VALUES(?,?,?,?,?) RETURNING seq"));
  version.BindText(1, id)
      .BindText(2, CanonicalJson(ManifestToJson(manifest)))
      .BindText(3, VersionStateName(state))
      .BindText(4, state_reason)
      .BindInt64(5, now_unix_ms_);
  ASSIGN_OR_RETURN(const bool inserted, version.Step());
  if (!inserted) return absl::InternalError("registry: insert returned no sequence number");
  const int64_t seq = version.Int64(0);
  RETURN_IF_ERROR(version.Run());

  ASSIGN_OR_RETURN(SqliteStatement parent,
                   db_.Prepare("INSERT INTO version_parents VALUES(?,?,?)"));
  for (size_t i = 0; i < manifest.parents.size(); ++i) {
    parent.BindText(1, id).BindInt64(2, static_cast<int64_t>(i)).BindText(3, manifest.parents[i]);
    RETURN_IF_ERROR(parent.Run());
  }
  ASSIGN_OR_RETURN(SqliteStatement name,
                   db_.Prepare("INSERT INTO serving_names VALUES(?,?,?) ON CONFLICT(slot, digest) "
                               "DO NOTHING"));
  for (const AdapterSlot& slot : manifest.adapters) {
    name.BindText(1, slot.slot).BindText(2, slot.digest).BindInt64(3, seq);
    RETURN_IF_ERROR(name.Run());
  }
  return absl::OkStatus();
}

absl::Status RegistryRows::UpdateState(absl::string_view id, VersionState from, VersionState to,
                                       absl::string_view reason) {
  ASSIGN_OR_RETURN(SqliteStatement update,
                   db_.Prepare("UPDATE versions SET state=?, state_reason=? WHERE id=?"));
  update.BindText(1, VersionStateName(to)).BindText(2, reason).BindText(3, id);
  RETURN_IF_ERROR(update.Run());
  return InsertEvent("version.state", {{"version", std::string(id)},
                                       {"from", VersionStateName(from)},
                                       {"to", VersionStateName(to)},
                                       {"reason", std::string(reason)}});
}

absl::StatusOr<int64_t> RegistryRows::FirstSeq(absl::string_view slot, absl::string_view digest) {
  ASSIGN_OR_RETURN(SqliteStatement query,
                   db_.Prepare("SELECT first_seq FROM serving_names WHERE slot=? AND digest=?"));
  query.BindText(1, slot).BindText(2, digest);
  ASSIGN_OR_RETURN(const bool found, query.Step());
  if (!found) return absl::NotFoundError(absl::StrCat("registry: no adapter ", slot, " ", digest));
  return query.Int64(0);
}

absl::StatusOr<bool> RegistryRows::InsertVerdict(absl::string_view version_id,
                                                 const VerdictRow& row) {
  ASSIGN_OR_RETURN(
      SqliteStatement insert,
      db_.Prepare("INSERT INTO verdicts(version_id, baseline_id, digest, outcome, at_unix_ms) "
                  "VALUES(?,?,?,?,?) ON CONFLICT DO NOTHING RETURNING id"));
  insert.BindText(1, version_id)
      .BindText(2, row.baseline_id)
      .BindText(3, row.digest)
      .BindText(4, GateOutcomeName(row.outcome))
      .BindInt64(5, now_unix_ms_);
  ASSIGN_OR_RETURN(const bool inserted, insert.Step());
  if (inserted) RETURN_IF_ERROR(insert.Run());
  return inserted;
}

absl::StatusOr<std::optional<RegistryRows::VerdictRow>> RegistryRows::LatestVerdict(
    absl::string_view version_id) {
  ASSIGN_OR_RETURN(SqliteStatement query,
                   db_.Prepare("SELECT baseline_id, digest, outcome FROM verdicts "
                               "WHERE version_id=? ORDER BY id DESC LIMIT 1"));
  query.BindText(1, version_id);
  ASSIGN_OR_RETURN(const bool found, query.Step());
  if (!found) return std::optional<VerdictRow>();
  VerdictRow row{.baseline_id = query.Text(0), .digest = query.Text(1)};
  const std::string outcome = query.Text(2);
  for (const GateOutcome o : {GateOutcome::kPass, GateOutcome::kFail}) {
    if (outcome == GateOutcomeName(o)) row.outcome = o;
  }
  return std::optional<VerdictRow>(std::move(row));
}

absl::StatusOr<std::vector<std::string>> RegistryRows::VerdictDigests() {
  ASSIGN_OR_RETURN(SqliteStatement query, db_.Prepare("SELECT digest FROM verdicts ORDER BY id"));
  std::vector<std::string> out;
  for (;;) {
    ASSIGN_OR_RETURN(const bool more, query.Step());
    if (!more) return out;
    out.push_back(query.Text(0));
  }
}

absl::StatusOr<AliasRecord> RegistryRows::GetAlias(absl::string_view name) {
  ASSIGN_OR_RETURN(
      SqliteStatement query,
      db_.Prepare("SELECT name, version_id, epoch, updated_unix_ms FROM aliases WHERE name=?"));
  query.BindText(1, name);
  ASSIGN_OR_RETURN(const bool found, query.Step());
  return found ? AliasFromRow(query) : AliasRecord{.name = std::string(name)};
}

absl::StatusOr<std::vector<AliasRecord>> RegistryRows::ListAliases() {
  ASSIGN_OR_RETURN(SqliteStatement query,
                   db_.Prepare("SELECT name, version_id, epoch, updated_unix_ms FROM aliases "
                               "ORDER BY name"));
  std::vector<AliasRecord> out;
  for (;;) {
    ASSIGN_OR_RETURN(const bool more, query.Step());
    if (!more) return out;
    out.push_back(AliasFromRow(query));
  }
}

absl::StatusOr<AliasRecord> RegistryRows::WriteAlias(const AliasLogRow& row) {
  ASSIGN_OR_RETURN(const AliasRecord before, GetAlias(row.alias));
  const AliasRecord after{.name = row.alias,
                          .version_id = row.to_version,
                          .epoch = before.epoch + 1,
                          .updated_unix_ms = now_unix_ms_};
  ASSIGN_OR_RETURN(
      SqliteStatement alias,
      db_.Prepare("INSERT INTO aliases VALUES(?1,?2,?3,?4) ON CONFLICT(name) DO UPDATE "
                  "SET version_id=?2, epoch=?3, updated_unix_ms=?4"));
  alias.BindText(1, after.name).BindInt64(3, after.epoch).BindInt64(4, after.updated_unix_ms);
  after.version_id.empty() ? alias.BindNull(2) : alias.BindText(2, after.version_id);
  RETURN_IF_ERROR(alias.Run());

  ASSIGN_OR_RETURN(
      SqliteStatement log,
      db_.Prepare("INSERT INTO alias_log(alias, kind, from_version, to_version, epoch, reason, "
                  "override_reason, verdict, at_unix_ms) VALUES(?,?,?,?,?,?,?,?,?)"));
  log.BindText(1, row.alias).BindText(2, row.kind).BindText(3, before.version_id);
  log.BindText(4, row.to_version).BindInt64(5, after.epoch).BindText(6, row.reason);
  log.BindText(7, row.override_reason).BindText(8, row.verdict).BindInt64(9, now_unix_ms_);
  RETURN_IF_ERROR(log.Run());
  RETURN_IF_ERROR(InsertEvent("alias.moved", {{"alias", row.alias},
                                              {"kind", row.kind},
                                              {"from", before.version_id},
                                              {"to", row.to_version},
                                              {"epoch", after.epoch},
                                              {"reason", row.reason}}));
  return after;
}

absl::StatusOr<std::vector<AliasLogRow>> RegistryRows::ReadLog(absl::string_view alias,
                                                               int64_t after_id, int64_t limit) {
  ASSIGN_OR_RETURN(SqliteStatement query,
                   db_.Prepare("SELECT id, alias, kind, from_version, to_version, epoch, reason, "
                               "override_reason, verdict, at_unix_ms FROM alias_log "
                               "WHERE id > ?1 AND (?2 = '' OR alias = ?2) ORDER BY id LIMIT ?3"));
  query.BindInt64(1, after_id).BindText(2, alias).BindInt64(3, limit);
  std::vector<AliasLogRow> out;
  for (;;) {
    ASSIGN_OR_RETURN(const bool more, query.Step());
    if (!more) return out;
    out.push_back({.id = query.Int64(0),
                   .alias = query.Text(1),
                   .kind = query.Text(2),
                   .from_version = query.Text(3),
                   .to_version = query.Text(4),
                   .epoch = query.Int64(5),
                   .reason = query.Text(6),
                   .override_reason = query.Text(7),
                   .verdict = query.Text(8),
                   .at_unix_ms = query.Int64(9)});
  }
}

absl::Status RegistryRows::InsertEvent(absl::string_view topic, const Json& payload) {
  ASSIGN_OR_RETURN(SqliteStatement insert,
                   db_.Prepare("INSERT INTO outbox(topic, payload, at_unix_ms) VALUES(?,?,?)"));
  insert.BindText(1, topic).BindText(2, CanonicalJson(payload)).BindInt64(3, now_unix_ms_);
  return insert.Run();
}

absl::StatusOr<std::vector<OutboxEvent>> RegistryRows::ReadOutbox(int64_t after_id, int64_t limit) {
  ASSIGN_OR_RETURN(SqliteStatement query,
                   db_.Prepare("SELECT id, topic, payload, at_unix_ms FROM outbox WHERE id > ? "
                               "ORDER BY id LIMIT ?"));
  query.BindInt64(1, after_id).BindInt64(2, limit);
  std::vector<OutboxEvent> out;
  for (;;) {
    ASSIGN_OR_RETURN(const bool more, query.Step());
    if (!more) return out;
    absl::StatusOr<Json> payload = ParseJson(query.Text(2));
    if (!payload.ok()) {
      return Damaged("event", absl::StrCat(query.Int64(0)), payload.status().message());
    }
    out.push_back({.id = query.Int64(0),
                   .topic = query.Text(1),
                   .payload = *std::move(payload),
                   .at_unix_ms = query.Int64(3)});
  }
}

}  // namespace evolora
