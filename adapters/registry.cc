#include "evolora/adapters/registry.h"

#include <algorithm>
#include <utility>

#include "evolora/core/sha256.h"
#include "registry_impl.h"
#include "registry_schema.h"

namespace evolora {
namespace {

constexpr size_t kMinPrefix = 6;

bool IsHex(absl::string_view text) {
  return std::all_of(text.begin(), text.end(),
                     [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

VersionState StateAfter(GateOutcome outcome) {
  switch (outcome) {
    case GateOutcome::kPass:
      return VersionState::kEligible;
    case GateOutcome::kFail:
      return VersionState::kRejected;
    case GateOutcome::kInconclusive:
      return VersionState::kGated;
  }
  return VersionState::kGated;
}

absl::StatusOr<GateVerdict> ReadVerdict(const BlobStore& blobs, const std::string& digest) {
  ASSIGN_OR_RETURN(const Json json, blobs.GetJson(digest));
  absl::StatusOr<GateVerdict> verdict = GateVerdictFromJson(json);
  if (!verdict.ok()) return Annotate(verdict.status(), absl::StrCat("blob ", digest));
  return verdict;
}

absl::Status CheckParents(RegistryRows& rows, const VersionManifest& manifest) {
  for (const std::string& parent : manifest.parents) {
    ASSIGN_OR_RETURN(const bool known, rows.HasVersion(parent));
    if (!known) return absl::NotFoundError(absl::StrCat("registry: no parent version ", parent));
  }
  return absl::OkStatus();
}

}  // namespace

const char* VersionStateName(VersionState state) {
  switch (state) {
    case VersionState::kStaged:
      return "staged";
    case VersionState::kGated:
      return "gated";
    case VersionState::kEligible:
      return "eligible";
    case VersionState::kRejected:
      return "rejected";
    case VersionState::kRetired:
      return "retired";
    case VersionState::kQuarantined:
      return "quarantined";
  }
  return "?";
}

bool IsTransitionAllowed(VersionState from, VersionState to) {
  using S = VersionState;
  switch (from) {
    case S::kStaged:
      return to != S::kStaged;
    case S::kGated:
    case S::kEligible:
    case S::kRejected:
      return to != from && to != S::kStaged;
    case S::kRetired:
      return to == S::kEligible || to == S::kQuarantined;
    case S::kQuarantined:
      return to == S::kStaged || to == S::kRetired;
  }
  return false;
}

Registry::Registry(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Registry::~Registry() = default;
BlobStore& Registry::blobs() { return impl_->blobs; }

absl::StatusOr<std::unique_ptr<Registry>> Registry::Open(const std::string& home, FileSystem& files,
                                                         const Clock& clock,
                                                         const RegistryOptions& options) {
  RETURN_IF_ERROR(files.CreateDirectories(home));
  auto impl = std::make_unique<Impl>(BlobStore(files, JoinPath(home, "blobs")), clock);
  ASSIGN_OR_RETURN(impl->home_lock, HomeLock::Acquire(JoinPath(home, "registry.lock")));
  auto db =
      Sqlite::Open(JoinPath(home, "registry.db"), {.busy_timeout_ms = options.busy_timeout_ms});
  if (!db.ok()) return Impl::Explain(db.status());
  {
    const absl::MutexLock lock(&impl->mutex);
    impl->db = *std::move(db);
    // EXTRA also syncs the folder after the journal is removed: a committed promotion survives
    // a power cut, not only a crash.
    RETURN_IF_ERROR(Impl::Explain(impl->db->Execute("PRAGMA synchronous=EXTRA")));
    RETURN_IF_ERROR(Impl::Explain(MigrateRegistry(*impl->db, clock.NowUnixMs())));
  }
  return std::unique_ptr<Registry>(new Registry(std::move(impl)));
}

absl::StatusOr<VersionRecord> Registry::Register(const VersionManifest& manifest) {
  RETURN_IF_ERROR(ValidateManifest(manifest));
  // What cannot be read back must not be committed (nesting, size).
  ASSIGN_OR_RETURN(const Json json, ParseJson(CanonicalJson(ManifestToJson(manifest))));
  RETURN_IF_ERROR(ManifestFromJson(json).status());
  RETURN_IF_ERROR(CheckManifestBlobs(impl_->blobs, manifest));
  const std::string id = VersionId(manifest);
  VersionState state = VersionState::kStaged;
  std::string reason = "registered";
  RegistryRows::VerdictRow verdict{.digest = manifest.verdict};
  if (!manifest.verdict.empty()) {
    ASSIGN_OR_RETURN(const GateVerdict judged, ReadVerdict(impl_->blobs, manifest.verdict));
    verdict.outcome = judged.outcome;
    verdict.baseline_id = manifest.parents.empty() ? "" : manifest.parents[0];
    state = StateAfter(judged.outcome);
    reason = judged.reason;
  }
  VersionRecord record;
  RETURN_IF_ERROR(impl_->Write([&](RegistryRows& rows) -> absl::Status {
    ASSIGN_OR_RETURN(const bool known, rows.HasVersion(id));
    if (!known) {
      RETURN_IF_ERROR(CheckParents(rows, manifest));
      RETURN_IF_ERROR(rows.InsertVersion(id, manifest, state, reason));
      if (!verdict.digest.empty()) RETURN_IF_ERROR(rows.InsertVerdict(id, verdict).status());
    }
    ASSIGN_OR_RETURN(record, rows.GetVersion(id));
    return absl::OkStatus();
  }));
  return record;
}

absl::StatusOr<VersionRecord> Registry::Resolve(absl::string_view name) const {
  VersionRecord record;
  RETURN_IF_ERROR(impl_->Read([&](RegistryRows& rows) -> absl::Status {
    std::string id(name);
    if (IsHex(name) && name.size() >= kMinPrefix) {
      ASSIGN_OR_RETURN(const std::vector<std::string> ids, rows.IdsWithPrefix(name));
      if (ids.size() > 1) {
        return absl::InvalidArgumentError(absl::StrCat(
            "registry: prefix ", name, " fits several versions: ", ids[0], ", ", ids[1]));
      }
      if (ids.size() == 1) id = ids[0];
    } else if (IsAliasName(name)) {
      ASSIGN_OR_RETURN(const AliasRecord alias, rows.GetAlias(name));
      if (alias.version_id.empty()) {
        return absl::NotFoundError(alias.epoch == 0
                                       ? absl::StrCat("registry: no alias or version ", name)
                                       : absl::StrCat("registry: alias ", name, " points nowhere"));
      }
      id = alias.version_id;
    }
    ASSIGN_OR_RETURN(record, rows.GetVersion(id));
    return absl::OkStatus();
  }));
  return record;
}

absl::StatusOr<std::vector<VersionRecord>> Registry::List() const {
  std::vector<VersionRecord> out;
  RETURN_IF_ERROR(impl_->Read([&](RegistryRows& rows) -> absl::Status {
    ASSIGN_OR_RETURN(out, rows.ListVersions());
    return absl::OkStatus();
  }));
  return out;
}

absl::StatusOr<std::vector<ServingName>> Registry::ServingNames(
    absl::string_view version_id) const {
  std::vector<ServingName> out;
  RETURN_IF_ERROR(impl_->Read([&](RegistryRows& rows) -> absl::Status {
    ASSIGN_OR_RETURN(const VersionRecord version, rows.GetVersion(version_id));
    for (const AdapterSlot& slot : version.manifest.adapters) {
      ASSIGN_OR_RETURN(const int64_t seq, rows.FirstSeq(slot.slot, slot.digest));
      out.push_back({.slot = slot.slot,
                     .digest = slot.digest,
                     .name = AdapterServingName(slot.slot, seq, slot.digest)});
    }
    return absl::OkStatus();
  }));
  return out;
}

absl::StatusOr<std::string> Registry::RecordVerdict(absl::string_view version_id,
                                                    absl::string_view baseline_id,
                                                    const GateVerdict& verdict) {
  const Json json = GateVerdictToJson(verdict);
  RETURN_IF_ERROR(GateVerdictFromJson(json).status());
  if (version_id == baseline_id) {
    return absl::InvalidArgumentError(
        absl::StrCat("version ", version_id, " cannot be judged against itself"));
  }
  ASSIGN_OR_RETURN(const std::string digest, impl_->blobs.PutJson(json));
  RETURN_IF_ERROR(impl_->Write([&](RegistryRows& rows) -> absl::Status {
    ASSIGN_OR_RETURN(const VersionRecord version, rows.GetVersion(version_id));
    if (!baseline_id.empty()) {
      ASSIGN_OR_RETURN(const bool known, rows.HasVersion(baseline_id));
      if (!known) return absl::NotFoundError(absl::StrCat("registry: no version ", baseline_id));
    }
    ASSIGN_OR_RETURN(const bool inserted,
                     rows.InsertVerdict(version_id, {.baseline_id = std::string(baseline_id),
                                                     .digest = digest,
                                                     .outcome = verdict.outcome}));
    if (!inserted) return absl::OkStatus();
    const VersionState to = StateAfter(verdict.outcome);
    ASSIGN_OR_RETURN(const AliasRecord champion, rows.GetAlias(kChampion));
    if (champion.version_id == version_id && to != VersionState::kEligible) {
      return absl::FailedPreconditionError(absl::StrCat("version ", version_id,
                                                        " is champion and would become ",
                                                        VersionStateName(to), "; roll back first"));
    }
    // A verdict reaches only what is open to judgement; an operator brings back the others first.
    if (version.state == VersionState::kRetired || version.state == VersionState::kQuarantined) {
      return absl::FailedPreconditionError(absl::StrCat("version ", version_id, " is ",
                                                        VersionStateName(version.state),
                                                        "; it takes no verdict"));
    }
    return ChangeState(rows, version, to, ReplaceInvalidUtf8(verdict.reason));
  }));
  return digest;
}

absl::Status Registry::SetState(absl::string_view version_id, VersionState state,
                                absl::string_view reason) {
  ASSIGN_OR_RETURN(const std::string why, CheckedReason(reason));
  return impl_->Write([&](RegistryRows& rows) -> absl::Status {
    ASSIGN_OR_RETURN(const VersionRecord version, rows.GetVersion(version_id));
    if (version.state == state) return absl::OkStatus();
    const bool withdraws = state == VersionState::kRetired || state == VersionState::kQuarantined;
    const bool restores =
        (state == VersionState::kEligible && version.state == VersionState::kRetired) ||
        (state == VersionState::kStaged && version.state == VersionState::kQuarantined);
    if (!withdraws && !restores) {
      return absl::FailedPreconditionError(
          absl::StrCat("version ", version_id, " is ", VersionStateName(version.state),
                       "; only a verdict or an override makes it ", VersionStateName(state)));
    }
    RETURN_IF_ERROR(ChangeState(rows, version, state, why));
    if (!withdraws) return absl::OkStatus();
    ASSIGN_OR_RETURN(const std::vector<AliasRecord> aliases, rows.ListAliases());
    for (const AliasRecord& alias : aliases) {
      if (alias.version_id != version_id) continue;
      if (alias.name == kChampion) {
        return absl::FailedPreconditionError(
            absl::StrCat("version ", version_id, " is champion; roll back first"));
      }
      RETURN_IF_ERROR(
          rows.WriteAlias({.alias = alias.name, .kind = "clear", .reason = why}).status());
    }
    return absl::OkStatus();
  });
}

}  // namespace evolora
