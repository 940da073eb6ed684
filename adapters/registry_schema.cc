#include "registry_schema.h"

#include <iterator>
#include <string>

#include "absl/strings/str_cat.h"
#include "evolora/core/status_macros.h"

namespace evolora {
namespace {

constexpr int64_t kApplicationId = 0x45564f52;  // "EVOR"

struct Migration {
  const char* description;
  const char* sql;
};

// Step i leads from schema i to schema i + 1. Released steps are never edited; new ones are
// appended.
constexpr Migration kMigrations[] = {
    {"versions, verdicts, aliases, log and outbox", R"sql(
CREATE TABLE schema_migrations(
  version INTEGER PRIMARY KEY, description TEXT NOT NULL, applied_unix_ms INTEGER NOT NULL) STRICT;

CREATE TABLE versions(
  seq INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, manifest TEXT NOT NULL,
  state TEXT NOT NULL
    CHECK(state IN ('staged','gated','eligible','rejected','retired','quarantined')),
  state_reason TEXT NOT NULL, created_unix_ms INTEGER NOT NULL) STRICT;
CREATE TABLE version_parents(
  version_id TEXT NOT NULL REFERENCES versions(id), position INTEGER NOT NULL,
  parent_id TEXT NOT NULL REFERENCES versions(id),
  PRIMARY KEY(version_id, position)) STRICT, WITHOUT ROWID;
CREATE TABLE serving_names(
  slot TEXT NOT NULL, digest TEXT NOT NULL, first_seq INTEGER NOT NULL REFERENCES versions(seq),
  PRIMARY KEY(slot, digest), UNIQUE(slot, first_seq)) STRICT, WITHOUT ROWID;
CREATE TABLE verdicts(
  id INTEGER PRIMARY KEY, version_id TEXT NOT NULL REFERENCES versions(id),
  baseline_id TEXT NOT NULL, digest TEXT NOT NULL,
  outcome TEXT NOT NULL CHECK(outcome IN ('pass','fail','inconclusive')),
  at_unix_ms INTEGER NOT NULL, UNIQUE(version_id, baseline_id, digest)) STRICT;

CREATE TABLE aliases(
  name TEXT PRIMARY KEY, version_id TEXT REFERENCES versions(id),
  epoch INTEGER NOT NULL CHECK(epoch >= 1), updated_unix_ms INTEGER NOT NULL) STRICT;
CREATE TABLE alias_log(
  id INTEGER PRIMARY KEY AUTOINCREMENT, alias TEXT NOT NULL,
  kind TEXT NOT NULL CHECK(kind IN ('move','rollback','follow','clear')),
  from_version TEXT NOT NULL, to_version TEXT NOT NULL, epoch INTEGER NOT NULL,
  reason TEXT NOT NULL, override_reason TEXT NOT NULL, verdict TEXT NOT NULL,
  at_unix_ms INTEGER NOT NULL, UNIQUE(alias, epoch)) STRICT;
CREATE TABLE outbox(
  id INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, payload TEXT NOT NULL,
  at_unix_ms INTEGER NOT NULL) STRICT;

CREATE TRIGGER versions_are_immutable BEFORE UPDATE OF seq, id, manifest, created_unix_ms ON versions
  BEGIN SELECT RAISE(ABORT, 'a version never changes'); END;
CREATE TRIGGER versions_stay BEFORE DELETE ON versions
  BEGIN SELECT RAISE(ABORT, 'a version is never deleted'); END;
CREATE TRIGGER parents_are_immutable BEFORE UPDATE ON version_parents
  BEGIN SELECT RAISE(ABORT, 'lineage never changes'); END;
CREATE TRIGGER parents_stay BEFORE DELETE ON version_parents
  BEGIN SELECT RAISE(ABORT, 'lineage is never deleted'); END;
CREATE TRIGGER names_are_immutable BEFORE UPDATE ON serving_names
  BEGIN SELECT RAISE(ABORT, 'a serving name never changes'); END;
CREATE TRIGGER names_stay BEFORE DELETE ON serving_names
  BEGIN SELECT RAISE(ABORT, 'a serving name is never given away'); END;
CREATE TRIGGER verdicts_are_immutable BEFORE UPDATE ON verdicts
  BEGIN SELECT RAISE(ABORT, 'a verdict never changes'); END;
CREATE TRIGGER verdicts_stay BEFORE DELETE ON verdicts
  BEGIN SELECT RAISE(ABORT, 'a verdict is never deleted'); END;
CREATE TRIGGER log_is_immutable BEFORE UPDATE ON alias_log
  BEGIN SELECT RAISE(ABORT, 'the log never changes'); END;
CREATE TRIGGER log_stays BEFORE DELETE ON alias_log
  BEGIN SELECT RAISE(ABORT, 'the log never shrinks'); END;
CREATE TRIGGER outbox_is_immutable BEFORE UPDATE ON outbox
  BEGIN SELECT RAISE(ABORT, 'an event never changes'); END;
CREATE TRIGGER outbox_stays BEFORE DELETE ON outbox
  BEGIN SELECT RAISE(ABORT, 'the outbox never shrinks'); END;
)sql"},
};

absl::Status Apply(Sqlite& db, int64_t from, int64_t now_unix_ms) {
  const Migration& migration = kMigrations[from];
  return db.InTransaction([&]() -> absl::Status {
    RETURN_IF_ERROR(db.Execute(migration.sql));
    ASSIGN_OR_RETURN(
        SqliteStatement row,
        db.Prepare("INSERT INTO schema_migrations(version, description, applied_unix_ms) "
                   "VALUES(?,?,?)"));
    row.BindInt64(1, from + 1).BindText(2, migration.description).BindInt64(3, now_unix_ms);
    RETURN_IF_ERROR(row.Run());
    return db.Execute(
        absl::StrCat("PRAGMA application_id=", kApplicationId, "; PRAGMA user_version=", from + 1));
  });
}

}  // namespace

int64_t RegistrySchemaVersion() { return static_cast<int64_t>(std::size(kMigrations)); }

absl::Status MigrateRegistry(Sqlite& db, int64_t now_unix_ms) {
  ASSIGN_OR_RETURN(const int64_t application, db.QueryInt64("PRAGMA application_id"));
  ASSIGN_OR_RETURN(int64_t version, db.QueryInt64("PRAGMA user_version"));
  ASSIGN_OR_RETURN(const int64_t num_objects, db.QueryInt64("SELECT count(*) FROM sqlite_schema"));
  const bool empty = num_objects == 0 && version == 0 && application == 0;
  if (!empty && application != kApplicationId) {
    return absl::FailedPreconditionError(
        absl::StrCat(db.path(), ": not a registry (application id ", application, ")"));
  }
  if (version > RegistrySchemaVersion()) {
    return absl::FailedPreconditionError(
        absl::StrCat(db.path(), ": schema ", version, ", this build knows up to ",
                     RegistrySchemaVersion(), "; use a newer build"));
  }
  for (; version < RegistrySchemaVersion(); ++version) {
    RETURN_IF_ERROR(Annotate(Apply(db, version, now_unix_ms),
                             absl::StrCat("migration to schema ", version + 1)));
  }
  return absl::OkStatus();
}

}  // namespace evolora
