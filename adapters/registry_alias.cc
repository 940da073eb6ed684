#include <algorithm>
#include <limits>
#include <utility>

#include "evolora/adapters/registry.h"
#include "registry_impl.h"

namespace evolora {
namespace {

bool IsWithdrawn(VersionState state) {
  return state == VersionState::kRetired || state == VersionState::kQuarantined;
}

bool MayHold(absl::string_view alias, VersionState state) {
  return alias == kChampion ? state == VersionState::kEligible : !IsWithdrawn(state);
}

absl::Status CannotHold(absl::string_view alias, const VersionRecord& version) {
  return absl::FailedPreconditionError(absl::StrCat("alias ", alias, " cannot point at version ",
                                                    version.id, ", which is ",
                                                    VersionStateName(version.state)));
}

absl::Status CheckAliasForMove(absl::string_view alias) {
  if (!IsAliasName(alias)) {
    return absl::InvalidArgumentError(absl::StrCat("\"", alias, "\" is no alias name"));
  }
  if (alias == kPrevious) {
    return absl::InvalidArgumentError("alias previous follows champion; it cannot be moved");
  }
  return absl::OkStatus();
}

absl::Status CheckEpoch(const AliasRecord& alias, int64_t expected) {
  if (alias.epoch == expected) return absl::OkStatus();
  return absl::FailedPreconditionError(absl::StrCat(
      "alias ", alias.name, " is at epoch ", alias.epoch, " (version ",
      alias.version_id.empty() ? "none" : alias.version_id, "), expected epoch ", expected));
}

// The versions the alias held, oldest first: a move pushes, a rollback pops down to its target. A
// rollback to what was popped before (forward again) pushes.
std::vector<std::string> HistoryOf(const std::vector<AliasLogRow>& log) {
  std::vector<std::string> stack;
  for (const AliasLogRow& row : log) {
    if (row.to_version.empty()) continue;
    const auto held = std::find(stack.rbegin(), stack.rend(), row.to_version);
    if (row.kind == "rollback" && held != stack.rend()) {
      stack.erase(held.base(), stack.end());
    } else {
      stack.push_back(row.to_version);
    }
  }
  return stack;
}

// The version an undo of the alias leads to, or "" when there is none that it may hold.
absl::StatusOr<std::string> VersionBefore(RegistryRows& rows, const AliasRecord& alias) {
  ASSIGN_OR_RETURN(const std::vector<AliasLogRow> log,
                   rows.ReadLog(alias.name, 0, std::numeric_limits<int64_t>::max()));
  std::vector<std::string> history = HistoryOf(log);
  for (; !history.empty(); history.pop_back()) {
    if (history.back() == alias.version_id) continue;
    ASSIGN_OR_RETURN(const VersionRecord version, rows.GetVersion(history.back()));
    if (MayHold(alias.name, version.state)) return version.id;
  }
  return std::string();
}

absl::Status CheckHeldBefore(RegistryRows& rows, const std::string& alias,
                             const std::string& version_id) {
  ASSIGN_OR_RETURN(const std::vector<AliasLogRow> log,
                   rows.ReadLog(alias, 0, std::numeric_limits<int64_t>::max()));
  const bool held = std::any_of(
      log.begin(), log.end(), [&](const AliasLogRow& row) { return row.to_version == version_id; });
  if (held) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrCat("alias ", alias, " never pointed at version ", version_id));
}

// Whether the version may become champion now. Returns the digest of the verdict that allows it,
// or "" when the override does.
absl::StatusOr<std::string> AdmitChampion(RegistryRows& rows, const VersionRecord& version,
                                          const AliasRecord& champion,
                                          const std::string& override_reason) {
  if (IsWithdrawn(version.state)) return CannotHold(kChampion, version);
  if (!override_reason.empty()) {
    RETURN_IF_ERROR(ChangeState(rows, version, VersionState::kEligible,
                                absl::StrCat("override: ", override_reason)));
    return std::string();
  }
  if (version.state != VersionState::kEligible) return CannotHold(kChampion, version);
  ASSIGN_OR_RETURN(const auto verdict, rows.LatestVerdict(version.id));
  if (!verdict.has_value() || verdict->outcome != GateOutcome::kPass) {
    return absl::FailedPreconditionError(absl::StrCat(
        "version ", version.id, " has no passing verdict; judge it or give an override reason"));
  }
  if (verdict->baseline_id != champion.version_id) {
    const auto name = [](const std::string& id) { return id.empty() ? std::string("none") : id; };
    return absl::FailedPreconditionError(
        absl::StrCat("version ", version.id, " was judged against ", name(verdict->baseline_id),
                     ", champion is now ", name(champion.version_id), "; judge it again"));
  }
  return verdict->digest;
}

// Writes the move; behind `champion`, `previous` follows in the same transaction.
absl::StatusOr<AliasRecord> Commit(RegistryRows& rows, const AliasLogRow& row) {
  ASSIGN_OR_RETURN(const AliasRecord moved, rows.WriteAlias(row));
  if (moved.name != kChampion) return moved;
  ASSIGN_OR_RETURN(const std::string before, VersionBefore(rows, moved));
  ASSIGN_OR_RETURN(const AliasRecord previous, rows.GetAlias(kPrevious));
  if (previous.version_id != before) {
    RETURN_IF_ERROR(rows.WriteAlias({.alias = kPrevious,
                                     .kind = "follow",
                                     .to_version = before,
                                     .reason = absl::StrCat(row.kind, " of champion")})
                        .status());
  }
  return moved;
}

}  // namespace

bool IsAliasName(absl::string_view text) {
  if (text.empty() || text.size() > 63 || text[0] < 'a' || text[0] > 'z') return false;
  bool all_hex = true;
  bool all_digits_after_first = text.size() > 1;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    const bool digit = c >= '0' && c <= '9';
    const bool letter = c >= 'a' && c <= 'z';
    if (!digit && !letter && c != '.' && c != '_' && c != '-') return false;
    all_hex = all_hex && (digit || (c >= 'a' && c <= 'f'));
    if (i > 0) all_digits_after_first = all_digits_after_first && digit;
  }
  return !(all_hex && text.size() >= 6) && !(text[0] == 'v' && all_digits_after_first);
}

absl::StatusOr<AliasRecord> Registry::MoveAlias(const AliasMove& move) {
  RETURN_IF_ERROR(CheckAliasForMove(move.alias));
  ASSIGN_OR_RETURN(const std::string reason, CheckedReason(move.reason));
  const std::string override_reason = ReplaceInvalidUtf8(move.override_reason);
  if (!override_reason.empty() && move.alias != kChampion) {
    return absl::InvalidArgumentError(
        absl::StrCat("alias ", move.alias, " needs no verdict, so there is nothing to override"));
  }
  AliasRecord result;
  RETURN_IF_ERROR(impl_->Write([&](RegistryRows& rows) -> absl::Status {
    ASSIGN_OR_RETURN(const AliasRecord before, rows.GetAlias(move.alias));
    RETURN_IF_ERROR(CheckEpoch(before, move.expected_epoch));
    ASSIGN_OR_RETURN(const VersionRecord version, rows.GetVersion(move.version_id));
    result = before;
    if (before.version_id == version.id) return absl::OkStatus();
    std::string verdict;
    if (move.alias == kChampion) {
      ASSIGN_OR_RETURN(verdict, AdmitChampion(rows, version, before, override_reason));
    } else if (!MayHold(move.alias, version.state)) {
      return CannotHold(move.alias, version);
    }
    ASSIGN_OR_RETURN(result, Commit(rows, {.alias = move.alias,
                                           .kind = "move",
                                           .to_version = version.id,
                                           .reason = reason,
                                           .override_reason = override_reason,
                                           .verdict = verdict}));
    return absl::OkStatus();
  }));
  return result;
}

absl::StatusOr<AliasRecord> Registry::Rollback(const RollbackRequest& request) {
  RETURN_IF_ERROR(CheckAliasForMove(request.alias));
  ASSIGN_OR_RETURN(const std::string reason, CheckedReason(request.reason));
  AliasRecord result;
  RETURN_IF_ERROR(impl_->Write([&](RegistryRows& rows) -> absl::Status {
    ASSIGN_OR_RETURN(const AliasRecord before, rows.GetAlias(request.alias));
    if (request.expected_epoch.has_value()) {
      RETURN_IF_ERROR(CheckEpoch(before, *request.expected_epoch));
    }
    std::string target = request.version_id;
    if (target.empty()) {
      ASSIGN_OR_RETURN(target, VersionBefore(rows, before));
      if (target.empty()) {
        return absl::FailedPreconditionError(
            absl::StrCat("alias ", request.alias, " has no earlier version to go back to"));
      }
    }
    ASSIGN_OR_RETURN(const VersionRecord version, rows.GetVersion(target));
    RETURN_IF_ERROR(CheckHeldBefore(rows, request.alias, version.id));
    result = before;
    if (before.version_id == version.id) return absl::OkStatus();
    if (!MayHold(request.alias, version.state)) return CannotHold(request.alias, version);
    ASSIGN_OR_RETURN(result, Commit(rows, {.alias = request.alias,
                                           .kind = "rollback",
                                           .to_version = version.id,
                                           .reason = reason}));
    return absl::OkStatus();
  }));
  return result;
}

absl::StatusOr<AliasRecord> Registry::GetAlias(absl::string_view alias) const {
  AliasRecord out;
  RETURN_IF_ERROR(impl_->Read([&](RegistryRows& rows) -> absl::Status {
    ASSIGN_OR_RETURN(out, rows.GetAlias(alias));
    return absl::OkStatus();
  }));
  return out;
}

absl::StatusOr<std::vector<AliasRecord>> Registry::ListAliases() const {
  std::vector<AliasRecord> out;
  RETURN_IF_ERROR(impl_->Read([&](RegistryRows& rows) -> absl::Status {
    ASSIGN_OR_RETURN(out, rows.ListAliases());
    return absl::OkStatus();
  }));
  return out;
}

absl::StatusOr<std::vector<AliasLogRow>> Registry::Log(absl::string_view alias, int64_t after_id,
                                                       int64_t limit) const {
  std::vector<AliasLogRow> out;
  RETURN_IF_ERROR(impl_->Read([&](RegistryRows& rows) -> absl::Status {
    ASSIGN_OR_RETURN(out, rows.ReadLog(alias, after_id, limit));
    return absl::OkStatus();
  }));
  return out;
}

absl::StatusOr<std::vector<OutboxEvent>> Registry::Outbox(int64_t after_id, int64_t limit) const {
  std::vector<OutboxEvent> out;
  RETURN_IF_ERROR(impl_->Read([&](RegistryRows& rows) -> absl::Status {
    ASSIGN_OR_RETURN(out, rows.ReadOutbox(after_id, limit));
    return absl::OkStatus();
  }));
  return out;
}

}  // namespace evolora
