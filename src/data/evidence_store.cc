#include "evolora/data/evidence_store.h"

#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "evolora/core/sha256.h"
#include "evolora/core/status_macros.h"

namespace evolora {
namespace {

constexpr int64_t kApplicationId = 0x45564f4c;  // "EVOL"

// The BEFORE INSERT triggers also stop INSERT OR REPLACE, which deletes without asking the DELETE
// trigger on connections that have recursive triggers off.
constexpr char kSchema[] = R"sql(
CREATE TABLE evidence(
  sequence INTEGER PRIMARY KEY AUTOINCREMENT,
  kind TEXT NOT NULL, run_id TEXT NOT NULL, key TEXT NOT NULL,
  digest TEXT NOT NULL, value TEXT NOT NULL) STRICT;
CREATE UNIQUE INDEX evidence_key ON evidence(kind, run_id, key);
CREATE TABLE completion(
  hash TEXT PRIMARY KEY, digest TEXT NOT NULL, value TEXT NOT NULL) STRICT, WITHOUT ROWID;
CREATE TRIGGER evidence_no_update BEFORE UPDATE ON evidence
  BEGIN SELECT RAISE(ABORT, 'evidence is append-only'); END;
CREATE TRIGGER evidence_no_delete BEFORE DELETE ON evidence
  BEGIN SELECT RAISE(ABORT, 'evidence is append-only'); END;
CREATE TRIGGER evidence_no_replace BEFORE INSERT ON evidence
  WHEN EXISTS (SELECT 1 FROM evidence WHERE sequence = NEW.sequence
               OR (kind = NEW.kind AND run_id = NEW.run_id AND key = NEW.key))
  BEGIN SELECT RAISE(ABORT, 'evidence is append-only'); END;
CREATE TRIGGER completion_no_update BEFORE UPDATE ON completion
  BEGIN SELECT RAISE(ABORT, 'evidence is append-only'); END;
CREATE TRIGGER completion_no_delete BEFORE DELETE ON completion
  BEGIN SELECT RAISE(ABORT, 'evidence is append-only'); END;
CREATE TRIGGER completion_no_replace BEFORE INSERT ON completion
  WHEN EXISTS (SELECT 1 FROM completion WHERE hash = NEW.hash)
  BEGIN SELECT RAISE(ABORT, 'evidence is append-only'); END;
)sql";

// Canonical text; InvalidArgument for strings that are not UTF-8 (the only thing JSON cannot
// write).
absl::StatusOr<std::string> ToText(const Json& value, absl::string_view what) {
  std::string text = DisplayJson(value);
  absl::StatusOr<Json> back = ParseJson(text, {.max_bytes = text.size() + 1, .max_depth = 512});
  if (!back.ok()) return Annotate(back.status(), what);
  if (*back != value) {
    return absl::InvalidArgumentError(absl::StrCat(what, ": not writable as JSON (bad UTF-8?)"));
  }
  return CanonicalJson(value);
}

absl::StatusOr<Json> FromText(const std::string& text, const std::string& digest,
                              absl::string_view what) {
  const std::string found = Sha256Hex(text);
  if (found != digest) {
    return absl::DataLossError(
        absl::StrCat(what, ": content has digest ", found, ", recorded is ", digest));
  }
  absl::StatusOr<Json> json = ParseJson(text, {.max_bytes = text.size() + 1, .max_depth = 512});
  if (!json.ok()) return absl::DataLossError(absl::StrCat(what, ": ", json.status().message()));
  return json;
}

std::string NameOf(absl::string_view kind, absl::string_view run_id, absl::string_view key) {
  return absl::StrCat(kind, " '", key, "' of run '", run_id, "'");
}

absl::Status Differs(absl::string_view what, absl::string_view kept, absl::string_view offered) {
  return absl::FailedPreconditionError(absl::StrCat(what, " is kept already with digest ", kept,
                                                    ", not ", offered, " as offered now"));
}

absl::StatusOr<EvidenceKind> KindFromName(const std::string& name) {
  for (int i = 0; i <= static_cast<int>(EvidenceKind::kCheckpoint); ++i) {
    if (name == EvidenceKindName(static_cast<EvidenceKind>(i))) return static_cast<EvidenceKind>(i);
  }
  return absl::DataLossError(absl::StrCat("unknown evidence kind '", name, "'"));
}

constexpr char kSelect[] = "SELECT sequence, kind, run_id, key, digest, value FROM evidence ";

}  // namespace

const char* EvidenceKindName(EvidenceKind kind) {
  switch (kind) {
    case EvidenceKind::kEpisode:
      return "episode";
    case EvidenceKind::kProbe:
      return "probe";
    case EvidenceKind::kDiagnosis:
      return "diagnosis";
    case EvidenceKind::kDecision:
      return "decision";
    case EvidenceKind::kTicketEvent:
      return "ticket_event";
    case EvidenceKind::kVerdict:
      return "verdict";
    case EvidenceKind::kLook:
      return "look";
    case EvidenceKind::kCheckpoint:
      return "checkpoint";
  }
  return "";
}

absl::StatusOr<std::unique_ptr<EvidenceStore>> EvidenceStore::Open(
    const std::string& path, const EvidenceStoreOptions& options) {
  ASSIGN_OR_RETURN(std::unique_ptr<Sqlite> db, Sqlite::Open(path, {.create = options.create}));
  std::unique_ptr<EvidenceStore> store(new EvidenceStore(std::move(db)));
  absl::MutexLock lock(&store->mutex_);
  RETURN_IF_ERROR(store->Migrate());
  if (options.check_integrity) {
    ASSIGN_OR_RETURN(SqliteStatement check, store->db_->Prepare("PRAGMA quick_check(1)"));
    ASSIGN_OR_RETURN(const bool row, check.Step());
    if (!row || check.Text(0) != "ok") {
      return absl::DataLossError(absl::StrCat(path, ": ", row ? check.Text(0) : "no check result"));
    }
  }
  return store;
}

absl::Status EvidenceStore::Migrate() {
  return db_->InTransaction([this]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) -> absl::Status {
    ASSIGN_OR_RETURN(const int64_t id, db_->QueryInt64("PRAGMA application_id"));
    ASSIGN_OR_RETURN(const int64_t version, db_->QueryInt64("PRAGMA user_version"));
    ASSIGN_OR_RETURN(const int64_t tables, db_->QueryInt64("SELECT COUNT(*) FROM sqlite_schema"));
    if (id == 0 && version == 0 && tables == 0) {
      return db_->Execute(absl::StrFormat("%sPRAGMA application_id=%d; PRAGMA user_version=%d;",
                                          kSchema, kApplicationId, kSchemaVersion));
    }
    if (id != kApplicationId) {
      return absl::FailedPreconditionError(absl::StrCat(
          db_->path(), ": a database, but not an evidence store (application id ", id, ")"));
    }
    if (version > kSchemaVersion) {
      return absl::FailedPreconditionError(
          absl::StrCat(db_->path(), ": schema version ", version, " is newer than ", kSchemaVersion,
                       ", the newest this build reads; use a newer evolora"));
    }
    if (version != kSchemaVersion) {
      return absl::DataLossError(absl::StrCat(db_->path(), ": schema version ", version));
    }
    return absl::OkStatus();
  });
}

absl::Status EvidenceStore::AppendRow(const Evidence& row) {
  const char* kind = EvidenceKindName(row.kind);
  const std::string what = NameOf(kind, row.run_id, row.key);
  if (row.run_id.empty() || row.key.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(what, ": run id and key must not be empty"));
  }
  ASSIGN_OR_RETURN(const std::string text, ToText(row.value, what));
  const std::string digest = Sha256Hex(text);
  ASSIGN_OR_RETURN(
      SqliteStatement find,
      db_->Prepare("SELECT digest FROM evidence WHERE kind = ?1 AND run_id = ?2 AND key = ?3"));
  ASSIGN_OR_RETURN(const bool there,
                   find.BindText(1, kind).BindText(2, row.run_id).BindText(3, row.key).Step());
  if (there) {
    return find.Text(0) == digest ? absl::OkStatus() : Differs(what, find.Text(0), digest);
  }
  ASSIGN_OR_RETURN(SqliteStatement insert,
                   db_->Prepare("INSERT INTO evidence(kind, run_id, key, digest, value) "
                                "VALUES(?1, ?2, ?3, ?4, ?5)"));
  insert.BindText(1, kind).BindText(2, row.run_id).BindText(3, row.key);
  return insert.BindText(4, digest).BindText(5, text).Run();
}

absl::Status EvidenceStore::Append(EvidenceKind kind, const std::string& run_id,
                                   const std::string& key, const Json& value) {
  const Evidence row{kind, run_id, key, value};
  return AppendAll({&row, 1});
}

absl::Status EvidenceStore::AppendAll(absl::Span<const Evidence> rows) {
  absl::MutexLock lock(&mutex_);
  return db_->InTransaction([&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) -> absl::Status {
    for (const Evidence& row : rows) RETURN_IF_ERROR(AppendRow(row));
    return absl::OkStatus();
  });
}

absl::StatusOr<Json> EvidenceStore::Get(EvidenceKind kind, const std::string& run_id,
                                        const std::string& key) const {
  absl::MutexLock lock(&mutex_);
  ASSIGN_OR_RETURN(
      SqliteStatement select,
      db_->Prepare(absl::StrCat(kSelect, "WHERE kind = ?1 AND run_id = ?2 AND key = ?3")));
  select.BindText(1, EvidenceKindName(kind)).BindText(2, run_id).BindText(3, key);
  ASSIGN_OR_RETURN(std::vector<StoredEvidence> rows, Select(std::move(select)));
  if (rows.empty()) {
    return absl::NotFoundError(
        absl::StrCat(db_->path(), ": no ", NameOf(EvidenceKindName(kind), run_id, key)));
  }
  return std::move(rows.front().evidence.value);
}

absl::StatusOr<std::vector<StoredEvidence>> EvidenceStore::Select(SqliteStatement statement) const {
  std::vector<StoredEvidence> rows;
  while (true) {
    ASSIGN_OR_RETURN(const bool row, statement.Step());
    if (!row) return rows;
    StoredEvidence out;
    out.sequence = statement.Int64(0);
    ASSIGN_OR_RETURN(out.evidence.kind, KindFromName(statement.Text(1)));
    out.evidence.run_id = statement.Text(2);
    out.evidence.key = statement.Text(3);
    out.digest = statement.Text(4);
    const std::string what = absl::StrCat(
        db_->path(), ": ", NameOf(statement.Text(1), out.evidence.run_id, out.evidence.key));
    ASSIGN_OR_RETURN(out.evidence.value, FromText(statement.Text(5), out.digest, what));
    rows.push_back(std::move(out));
  }
}

absl::StatusOr<std::vector<StoredEvidence>> EvidenceStore::List(EvidenceKind kind,
                                                                const std::string& run_id,
                                                                int64_t after_sequence,
                                                                int64_t limit) const {
  absl::MutexLock lock(&mutex_);
  ASSIGN_OR_RETURN(SqliteStatement select,
                   db_->Prepare(absl::StrCat(kSelect,
                                             "WHERE kind = ?1 AND run_id = ?2 AND sequence > ?3 "
                                             "ORDER BY sequence LIMIT ?4")));
  select.BindText(1, EvidenceKindName(kind)).BindText(2, run_id);
  select.BindInt64(3, after_sequence).BindInt64(4, limit);
  return Select(std::move(select));
}

absl::StatusOr<std::vector<StoredEvidence>> EvidenceStore::ListAllRuns(EvidenceKind kind) const {
  absl::MutexLock lock(&mutex_);
  ASSIGN_OR_RETURN(SqliteStatement select,
                   db_->Prepare(absl::StrCat(kSelect, "WHERE kind = ?1 ORDER BY sequence")));
  select.BindText(1, EvidenceKindName(kind));
  return Select(std::move(select));
}

absl::StatusOr<int64_t> EvidenceStore::Count(EvidenceKind kind, const std::string& run_id) const {
  absl::MutexLock lock(&mutex_);
  ASSIGN_OR_RETURN(SqliteStatement select,
                   db_->Prepare("SELECT COUNT(*) FROM evidence WHERE kind = ?1 AND run_id = ?2"));
  RETURN_IF_ERROR(select.BindText(1, EvidenceKindName(kind)).BindText(2, run_id).Step().status());
  return select.Int64(0);
}

absl::StatusOr<std::vector<std::string>> EvidenceStore::ListRuns() const {
  absl::MutexLock lock(&mutex_);
  ASSIGN_OR_RETURN(
      SqliteStatement select,
      db_->Prepare("SELECT run_id FROM evidence GROUP BY run_id ORDER BY MIN(sequence)"));
  std::vector<std::string> runs;
  while (true) {
    ASSIGN_OR_RETURN(const bool row, select.Step());
    if (!row) return runs;
    runs.push_back(select.Text(0));
  }
}

absl::StatusOr<Json> EvidenceStore::GetCompletion(const std::string& hash) const {
  absl::MutexLock lock(&mutex_);
  ASSIGN_OR_RETURN(SqliteStatement select,
                   db_->Prepare("SELECT digest, value FROM completion WHERE hash = ?1"));
  ASSIGN_OR_RETURN(const bool there, select.BindText(1, hash).Step());
  const std::string what = absl::StrCat(db_->path(), ": completion ", hash);
  if (!there) return absl::NotFoundError(absl::StrCat(what, " is not kept"));
  return FromText(select.Text(1), select.Text(0), what);
}

absl::Status EvidenceStore::PutCompletion(const MemoEntry& entry) {
  const std::string what = absl::StrCat("completion ", entry.hash);
  if (!IsSha256Hex(entry.hash)) {
    return absl::InvalidArgumentError(absl::StrCat(what, ": not a SHA-256"));
  }
  ASSIGN_OR_RETURN(const std::string text, ToText(entry.value, what));
  const std::string digest = Sha256Hex(text);
  ASSIGN_OR_RETURN(SqliteStatement find,
                   db_->Prepare("SELECT digest FROM completion WHERE hash = ?1"));
  ASSIGN_OR_RETURN(const bool there, find.BindText(1, entry.hash).Step());
  if (there) {
    return find.Text(0) == digest ? absl::OkStatus() : Differs(what, find.Text(0), digest);
  }
  ASSIGN_OR_RETURN(SqliteStatement insert,
                   db_->Prepare("INSERT INTO completion(hash, digest, value) VALUES(?1, ?2, ?3)"));
  return insert.BindText(1, entry.hash).BindText(2, digest).BindText(3, text).Run();
}

absl::Status EvidenceStore::PutCompletions(absl::Span<const MemoEntry> entries) {
  absl::MutexLock lock(&mutex_);
  return db_->InTransaction([&]() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) -> absl::Status {
    for (const MemoEntry& entry : entries) RETURN_IF_ERROR(PutCompletion(entry));
    return absl::OkStatus();
  });
}

absl::StatusOr<int64_t> EvidenceStore::CountCompletions() const {
  absl::MutexLock lock(&mutex_);
  return db_->QueryInt64("SELECT COUNT(*) FROM completion");
}

absl::StatusOr<int64_t> StoreLookRecorder::RecordLook(const Look& look) {
  const Json value = {{"stream_digest", look.stream_digest},
                      {"reason", look.reason},
                      {"num_cases", look.num_cases}};
  const std::string key = absl::StrCat(look.stream_digest, ":", look.reason);
  RETURN_IF_ERROR(store_->Append(EvidenceKind::kLook, run_id_, key, value));
  ASSIGN_OR_RETURN(const std::vector<StoredEvidence> looks,
                   store_->ListAllRuns(EvidenceKind::kLook));
  int64_t count = 0;
  for (const StoredEvidence& row : looks) {
    count += row.evidence.value.value("stream_digest", "") == look.stream_digest;
  }
  return count;
}

}  // namespace evolora
