#include <limits>
#include <map>
#include <utility>

#include "evolora/adapters/registry.h"
#include "registry_impl.h"

namespace evolora {
namespace {

absl::Status Fault(absl::string_view what) {
  return absl::DataLossError(absl::StrCat("registry: ", what));
}

// SQLite's own words: "ok" and no foreign key row when all is well.
absl::Status CheckDatabase(Sqlite& db) {
  ASSIGN_OR_RETURN(SqliteStatement integrity, db.Prepare("PRAGMA integrity_check(1)"));
  ASSIGN_OR_RETURN(const bool any, integrity.Step());
  if (!any || integrity.Text(0) != "ok") return Fault(integrity.Text(0));
  ASSIGN_OR_RETURN(SqliteStatement foreign, db.Prepare("PRAGMA foreign_key_check"));
  ASSIGN_OR_RETURN(const bool broken, foreign.Step());
  if (broken) return Fault(absl::StrCat("table ", foreign.Text(0), " names a missing row"));
  return absl::OkStatus();
}

// Each alias stands where its last log row left it, and no epoch is missing.
absl::Status CheckAliases(RegistryRows& rows) {
  ASSIGN_OR_RETURN(const std::vector<AliasLogRow> log,
                   rows.ReadLog("", 0, std::numeric_limits<int64_t>::max()));
  std::map<std::string, AliasLogRow> last;
  for (const AliasLogRow& row : log) {
    const AliasLogRow& before = last[row.alias];
    if (row.epoch != before.epoch + 1 || row.from_version != before.to_version) {
      return Fault(absl::StrCat("log row ", row.id, " does not follow on the one before"));
    }
    last[row.alias] = row;
  }
  ASSIGN_OR_RETURN(const std::vector<AliasRecord> aliases, rows.ListAliases());
  if (aliases.size() != last.size()) return Fault("aliases and log differ");
  for (const AliasRecord& alias : aliases) {
    const AliasLogRow& row = last[alias.name];
    if (row.epoch != alias.epoch || row.to_version != alias.version_id) {
      return Fault(absl::StrCat("alias ", alias.name, " is not where the log left it"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckManifestBlobs(const BlobStore& blobs, const VersionManifest& m) {
  const std::pair<const char*, const std::string*> documents[] = {
      {"artifacts.prompt", &m.artifacts.prompt},
      {"artifacts.knowledge", &m.artifacts.knowledge},
      {"artifacts.tools", &m.artifacts.tools},
      {"artifacts.validation", &m.artifacts.validation},
      {"evidence", &m.evidence},
      {"verdict", &m.verdict}};
  for (const auto& [field, digest] : documents) {
    if (digest->empty()) continue;
    RETURN_IF_ERROR(Annotate(blobs.Verify(*digest), absl::StrCat("manifest.", field)));
  }
  for (const AdapterSlot& slot : m.adapters) {
    RETURN_IF_ERROR(
        Annotate(blobs.VerifyTree(slot.blob), absl::StrCat("manifest adapter ", slot.slot)));
  }
  return absl::OkStatus();
}

absl::Status Registry::CheckIntegrity() const {
  std::vector<VersionRecord> versions;
  std::vector<std::string> verdicts;
  RETURN_IF_ERROR(impl_->Read([&](RegistryRows& rows) -> absl::Status {
    RETURN_IF_ERROR(CheckDatabase(*impl_->db));
    RETURN_IF_ERROR(CheckAliases(rows));
    ASSIGN_OR_RETURN(verdicts, rows.VerdictDigests());
    ASSIGN_OR_RETURN(versions, rows.ListVersions());
    return absl::OkStatus();
  }));
  for (const VersionRecord& version : versions) {
    const absl::Status status = CheckManifestBlobs(impl_->blobs, version.manifest);
    if (!status.ok()) return Fault(absl::StrCat("version ", version.id, ": ", status.message()));
  }
  for (const std::string& digest : verdicts) {
    const absl::Status status = impl_->blobs.Verify(digest);
    if (!status.ok()) return Fault(absl::StrCat("verdict: ", status.message()));
  }
  return absl::OkStatus();
}

}  // namespace evolora
