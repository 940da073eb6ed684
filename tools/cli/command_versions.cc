// log, show, diff, alias, rollback: versions and what they rest on.
#include <cstdio>
#include <ctime>
#include <utility>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "evolora/core/status_macros.h"
#include "evolora/pipeline/version_store.h"
#include "options.h"
#include "output.h"

namespace evolora::cli {
namespace {

std::string Time(int64_t unix_ms) {
  const std::time_t seconds = static_cast<std::time_t>(unix_ms / 1000);
  std::tm utc{};
  gmtime_r(&seconds, &utc);
  char text[32];
  std::strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%SZ", &utc);
  return text;
}

std::string Short(const std::string& id) { return id.empty() ? "-" : id.substr(0, 12); }

absl::Status PrintAliasLog(const GlobalOptions& global, Home& home) {
  ASSIGN_OR_RETURN(const std::vector<AliasLogRow> rows, home.registry().Log(""));
  Table table({"time", "alias", "kind", "from", "to", "epoch", "reason"});
  for (const AliasLogRow& row : rows) {
    if (global.json) {
      PrintJson(Json{{"type", "alias"},
                     {"alias", row.alias},
                     {"kind", row.kind},
                     {"from", row.from_version},
                     {"to", row.to_version},
                     {"epoch", row.epoch},
                     {"reason", row.reason},
                     {"override", row.override_reason},
                     {"at_unix_ms", row.at_unix_ms}});
    }
    table.Add({Time(row.at_unix_ms), row.alias, row.kind, Short(row.from_version),
               Short(row.to_version), absl::StrCat(row.epoch),
               absl::StrCat(
                   Shorten(row.reason, 60),
                   row.override_reason.empty() ? "" : " (override: " + row.override_reason + ")")});
  }
  if (!global.json) std::printf("alias moves\n%s", table.ToText().c_str());
  return absl::OkStatus();
}

void PrintDecision(const GlobalOptions& global, const std::string& run_id, const Json& decision,
                   const Json& diagnosis) {
  if (global.json) {
    Json row = decision;
    row["type"] = "decision";
    row["run"] = run_id;
    row["diagnosis"] = diagnosis;
    return PrintJson(row);
  }
  std::printf("%s  %s  %s -> %s\n", decision.value("case_id", "").c_str(),
              decision.value("cluster", "").c_str(), diagnosis.value("class", "").c_str(),
              decision.value("action", "").c_str());
  std::printf("    measured: %s\n", diagnosis.value("reason", "").c_str());
  std::printf("    decided:  %s\n", decision.value("reason", "").c_str());
  const Json masks = decision.value("masks", Json::array());
  for (const Json& mask : masks) {
    std::printf("    mask %s closes %s: %s\n", mask.value("rule", "").c_str(),
                mask.value("closes", "").c_str(), mask.value("why", "").c_str());
  }
  std::vector<std::string> numbers;
  const Json values = decision.value("numbers", Json::object());
  for (const auto& [name, value] : values.items()) {
    numbers.push_back(absl::StrCat(name, "=", value.get<double>()));
  }
  std::printf("    numbers:  %s\n", absl::StrJoin(numbers, " ").c_str());
}

absl::Status PrintRun(const GlobalOptions& global, Home& home, const std::string& run_id) {
  EvidenceStore& evidence = home.evidence();
  ASSIGN_OR_RETURN(const auto decisions, evidence.List(EvidenceKind::kDecision, run_id));
  ASSIGN_OR_RETURN(const auto verdicts, evidence.List(EvidenceKind::kVerdict, run_id));
  if (!global.json && !decisions.empty()) std::printf("\nrun %s: decisions\n", run_id.c_str());
  for (const StoredEvidence& row : decisions) {
    const absl::StatusOr<Json> diagnosis =
        evidence.Get(EvidenceKind::kDiagnosis, run_id, row.evidence.key);
    PrintDecision(global, run_id, row.evidence.value, diagnosis.ok() ? *diagnosis : Json::object());
  }
  if (!global.json && !verdicts.empty()) std::printf("\nrun %s: gate verdicts\n", run_id.c_str());
  for (const StoredEvidence& row : verdicts) {
    const Json& value = row.evidence.value;
    if (global.json) {
      Json out = value;
      out["type"] = "verdict";
      out["run"] = run_id;
      PrintJson(out);
    } else {
      const Json& verdict = value.at("verdict");
      std::printf("%s  %s: %s\n    %s\n", row.evidence.key.c_str(),
                  value.value("candidate", "").c_str(), verdict.value("outcome", "").c_str(),
                  verdict.value("reason", "").c_str());
    }
  }
  return absl::OkStatus();
}

absl::Status Log(const GlobalOptions& global) {
  ASSIGN_OR_RETURN(const std::unique_ptr<Home> home, OpenHome(global));
  RETURN_IF_ERROR(PrintAliasLog(global, *home));
  ASSIGN_OR_RETURN(const std::vector<std::string> runs, home->evidence().ListRuns());
  for (const std::string& run_id : runs) RETURN_IF_ERROR(PrintRun(global, *home, run_id));
  return absl::OkStatus();
}

absl::StatusOr<Json> VersionJson(Home& home, const VersionRecord& record) {
  Json json{{"id", record.id},
            {"seq", record.seq},
            {"state", VersionStateName(record.state)},
            {"state_reason", record.state_reason},
            {"created_unix_ms", record.created_unix_ms},
            {"manifest", ManifestToJson(record.manifest)}};
  if (!record.manifest.verdict.empty()) {
    ASSIGN_OR_RETURN(json["verdict"], home.registry().blobs().GetJson(record.manifest.verdict));
  }
  ASSIGN_OR_RETURN(const std::vector<ServingName> names, home.registry().ServingNames(record.id));
  for (const ServingName& name : names) json["serving_names"][name.slot] = name.name;
  return json;
}

void PrintState(const ArtifactState& state) {
  std::printf(
      "text: %zu prompt lines, %zu knowledge entries, %zu skills, %zu tool notes, %zu validation "
      "cases\n",
      state.prompt.size(), state.knowledge.size(), state.skills.size(), state.tool_notes.size(),
      state.validation.size());
  for (const PromptLine& line : state.prompt)
    std::printf("  prompt %s: %s\n", line.id.c_str(), line.text.c_str());
  for (const auto& [name, skill] : state.skills) {
    std::printf("  skill %s: when %s\n    %s\n", name.c_str(),
                CanonicalJson(TriggerToJson(skill.trigger)).c_str(),
                Shorten(skill.instructions, 160).c_str());
  }
  for (const auto& [tool, note] : state.tool_notes)
    std::printf("  tool %s: %s\n", tool.c_str(), note.text.c_str());
  for (const auto& [key, entry] : state.knowledge) {
    std::printf("  knowledge %s: %s -> %s\n", key.c_str(), Shorten(entry.question, 70).c_str(),
                Shorten(entry.answer, 60).c_str());
  }
}

absl::Status Show(const GlobalOptions& global, const std::string& name) {
  ASSIGN_OR_RETURN(const std::unique_ptr<Home> home, OpenHome(global));
  ASSIGN_OR_RETURN(const VersionRecord record, home->registry().Resolve(name));
  ASSIGN_OR_RETURN(const Json json, VersionJson(*home, record));
  if (global.json) {
    PrintJson(json);
    return absl::OkStatus();
  }
  const VersionManifest& manifest = record.manifest;
  std::printf("version %s (v%ld), %s: %s\n", record.id.c_str(), static_cast<long>(record.seq),
              VersionStateName(record.state), record.state_reason.c_str());
  std::printf("base %s, weights %s\n", manifest.base.name.c_str(),
              Short(manifest.base.weights_fingerprint).c_str());
  for (const std::string& parent : manifest.parents) std::printf("parent %s\n", parent.c_str());
  for (const AdapterSlot& slot : manifest.adapters) {
    std::printf("adapter %s: rank %ld, digest %s, scope %s\n", slot.slot.c_str(),
                static_cast<long>(slot.rank), Short(slot.digest).c_str(),
                CanonicalJson(TriggerToJson(slot.scope)).c_str());
  }
  std::printf("decision %s\n", Shorten(CanonicalJson(manifest.decision), 400).c_str());
  if (json.contains("verdict")) {
    std::printf("verdict %s: %s\n", json["verdict"].value("outcome", "").c_str(),
                json["verdict"].value("reason", "").c_str());
  }
  ASSIGN_OR_RETURN(const ArtifactState state,
                   LoadState(home->registry().blobs(), manifest.artifacts));
  PrintState(state);
  return absl::OkStatus();
}

absl::Status ShowDiff(const GlobalOptions& global, const std::string& before,
                      const std::string& after) {
  ASSIGN_OR_RETURN(const std::unique_ptr<Home> home, OpenHome(global));
  ASSIGN_OR_RETURN(const VersionRecord a, home->registry().Resolve(before));
  ASSIGN_OR_RETURN(const VersionRecord b, home->registry().Resolve(after));
  ASSIGN_OR_RETURN(const ArtifactState state_a,
                   LoadState(home->registry().blobs(), a.manifest.artifacts));
  ASSIGN_OR_RETURN(const ArtifactState state_b,
                   LoadState(home->registry().blobs(), b.manifest.artifacts));
  std::vector<std::string> lines = Diff(state_a, state_b);
  const auto has = [](const VersionManifest& manifest, const AdapterSlot& slot) {
    return std::find(manifest.adapters.begin(), manifest.adapters.end(), slot) !=
           manifest.adapters.end();
  };
  for (const AdapterSlot& slot : a.manifest.adapters) {
    if (!has(b.manifest, slot))
      lines.push_back(absl::StrCat("removed adapter '", slot.slot, "' ", Short(slot.digest)));
  }
  for (const AdapterSlot& slot : b.manifest.adapters) {
    if (!has(a.manifest, slot))
      lines.push_back(absl::StrCat("added adapter '", slot.slot, "' ", Short(slot.digest)));
  }
  if (global.json) {
    PrintJson(Json{{"before", a.id}, {"after", b.id}, {"changes", lines}});
    return absl::OkStatus();
  }
  std::printf("%s -> %s: %zu changes\n", Short(a.id).c_str(), Short(b.id).c_str(), lines.size());
  for (const std::string& line : lines) std::printf("  %s\n", line.c_str());
  return absl::OkStatus();
}

void PrintAlias(const GlobalOptions& global, const AliasRecord& alias) {
  if (global.json) {
    PrintJson(Json{{"alias", alias.name}, {"version", alias.version_id}, {"epoch", alias.epoch}});
  } else {
    std::printf("%-12s %s  epoch %ld\n", alias.name.c_str(), Short(alias.version_id).c_str(),
                static_cast<long>(alias.epoch));
  }
}

struct AliasCommand {
  std::string name;
  std::string version;
  std::string reason;
  std::string override_reason;
};

absl::Status Alias(const GlobalOptions& global, const AliasCommand& command) {
  ASSIGN_OR_RETURN(const std::unique_ptr<Home> home, OpenHome(global));
  if (command.name.empty()) {
    ASSIGN_OR_RETURN(const std::vector<AliasRecord> aliases, home->registry().ListAliases());
    for (const AliasRecord& alias : aliases) PrintAlias(global, alias);
    return absl::OkStatus();
  }
  ASSIGN_OR_RETURN(AliasRecord alias, home->registry().GetAlias(command.name));
  if (!command.version.empty()) {
    ASSIGN_OR_RETURN(const VersionRecord target, home->registry().Resolve(command.version));
    ASSIGN_OR_RETURN(alias,
                     home->registry().MoveAlias({.alias = command.name,
                                                 .version_id = target.id,
                                                 .expected_epoch = alias.epoch,
                                                 .reason = command.reason,
                                                 .override_reason = command.override_reason}));
  }
  PrintAlias(global, alias);
  return absl::OkStatus();
}

absl::Status Rollback(const GlobalOptions& global, const AliasCommand& command) {
  ASSIGN_OR_RETURN(const std::unique_ptr<Home> home, OpenHome(global));
  RollbackRequest request{.alias = command.name, .reason = command.reason};
  if (!command.version.empty()) {
    ASSIGN_OR_RETURN(const VersionRecord target, home->registry().Resolve(command.version));
    request.version_id = target.id;
  }
  ASSIGN_OR_RETURN(const AliasRecord alias, home->registry().Rollback(request));
  PrintAlias(global, alias);
  return absl::OkStatus();
}

}  // namespace

void AddVersionCommands(CLI::App& app, GlobalOptions& global) {
  app.add_subcommand("log", "alias moves, decisions with their numbers, gate verdicts")
      ->callback([&global] { FinishCommand(Log(global)); });

  auto shown = std::make_shared<std::string>();
  CLI::App* show =
      app.add_subcommand("show", "one version: base, adapters, text, decision, verdict");
  show->add_option("version", *shown, "version id, prefix or alias")->required();
  show->callback([&global, shown] { FinishCommand(Show(global, *shown)); });

  auto pair = std::make_shared<std::pair<std::string, std::string>>();
  CLI::App* diff = app.add_subcommand("diff", "what changed from one version to another");
  diff->add_option("before", pair->first, "version")->required();
  diff->add_option("after", pair->second, "version")->required();
  diff->callback([&global, pair] { FinishCommand(ShowDiff(global, pair->first, pair->second)); });

  auto move = std::make_shared<AliasCommand>();
  move->reason = "evolora alias";
  CLI::App* alias = app.add_subcommand("alias", "list aliases, show one, or move one");
  alias->add_option("name", move->name, "alias");
  alias->add_option("version", move->version, "move it here");
  alias->add_option("--reason", move->reason, "for the log")->capture_default_str();
  alias->add_option("--override", move->override_reason,
                    "champion only: move without a fresh passing verdict, for this reason");
  alias->callback([&global, move] { FinishCommand(Alias(global, *move)); });

  auto back = std::make_shared<AliasCommand>();
  back->name = "champion";
  back->reason = "evolora rollback";
  CLI::App* rollback = app.add_subcommand("rollback", "move champion back to an earlier version");
  rollback->add_option("version", back->version, "an earlier version (default: the one before)");
  rollback->add_option("--alias", back->name, "another alias")->capture_default_str();
  rollback->add_option("--reason", back->reason, "for the log")->capture_default_str();
  rollback->callback([&global, back] { FinishCommand(Rollback(global, *back)); });
}

}  // namespace evolora::cli
