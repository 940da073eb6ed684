#include "evolora/pipeline/report.h"

#include <map>
#include <set>
#include <utility>

#include "absl/strings/str_replace.h"
#include "evolora/core/interval.h"
#include "evolora/core/status_macros.h"
#include "report_assets.h"

namespace evolora {
namespace {

Json IntervalJson(const Interval& interval) { return Json{interval.low, interval.high}; }

Json SummaryJson(const PairedSummary& s) {
  return Json{{"cluster", s.cluster},
              {"cases", s.num_cases},
              {"before", s.both_right + s.only_champion},
              {"after", s.both_right + s.only_candidate},
              {"won", s.only_candidate},
              {"lost", s.only_champion},
              {"identical", s.num_identical},
              {"before_interval", IntervalJson(s.champion_rate)},
              {"after_interval", IntervalJson(s.candidate_rate)},
              {"difference_interval", IntervalJson(s.difference)}};
}

Json SplitsJson(const FinalComparison& comparison) {
  Json splits = Json::array();
  for (const SplitComparison& part : comparison.splits) {
    Json clusters = Json::array();
    for (const PairedSummary& cluster : part.clusters) clusters.push_back(SummaryJson(cluster));
    splits.push_back(
        Json{{"split", part.split}, {"total", SummaryJson(part.total)}, {"clusters", clusters}});
  }
  return splits;
}

// Failures of the start version on the stream, and how many the final version answers right.
Json FixedJson(const FinalComparison& comparison) {
  for (const SplitComparison& part : comparison.splits) {
    if (part.split != "stream") continue;
    const int64_t failures =
        part.total.num_cases - part.total.both_right - part.total.only_champion;
    const int64_t fixed = part.total.only_candidate;
    return Json{{"failures", failures},
                {"fixed", fixed},
                {"broken", part.total.only_champion},
                {"interval", IntervalJson(WilsonInterval(fixed, failures))}};
  }
  return Json::object();
}

absl::StatusOr<Json> ListEvidence(Home& home, EvidenceKind kind, const std::string& run_id) {
  ASSIGN_OR_RETURN(const std::vector<StoredEvidence> rows, home.evidence().List(kind, run_id));
  Json out = Json::array();
  for (const StoredEvidence& row : rows) {
    Json value = row.evidence.value;
    if (value.is_object()) value["key"] = row.evidence.key;
    out.push_back(std::move(value));
  }
  return out;
}

// Diagnosis and decision of each failure, joined by episode.
absl::StatusOr<Json> DecisionsJson(Home& home, const std::string& run_id) {
  ASSIGN_OR_RETURN(const Json diagnoses, ListEvidence(home, EvidenceKind::kDiagnosis, run_id));
  ASSIGN_OR_RETURN(Json decisions, ListEvidence(home, EvidenceKind::kDecision, run_id));
  std::map<std::string, Json> by_episode;
  for (const Json& diagnosis : diagnoses) by_episode[diagnosis.value("key", "")] = diagnosis;
  for (Json& decision : decisions) decision["diagnosis"] = by_episode[decision.value("key", "")];
  return decisions;
}

// What the planted faults were decided as: training must touch none of them.
Json PlantedJson(const Stream& stream, const Json& decisions) {
  std::map<std::string, std::string> fault_of;
  for (const Case& c : stream.stream()) {
    if (!c.fault.empty()) fault_of[c.id] = c.fault;
  }
  Json rows = Json::array();
  for (const Json& decision : decisions) {
    const auto planted = fault_of.find(decision.value("case_id", ""));
    if (planted == fault_of.end()) continue;
    rows.push_back(Json{{"case", planted->first},
                        {"fault", planted->second},
                        {"class", decision["diagnosis"].value("class", "")},
                        {"action", decision.value("action", "")},
                        {"trained", decision.value("lever", "") == "weights"}});
  }
  return rows;
}

Json ComputeJson(const Compute& compute) {
  return Json{{"prompt_tokens", compute.prompt_tokens},
              {"generated_tokens", compute.generated_tokens},
              {"trained_tokens", compute.trained_tokens},
              {"flops", compute.flops},
              {"seconds", compute.seconds}};
}

absl::StatusOr<Json> VersionsJson(Home& home) {
  ASSIGN_OR_RETURN(const std::vector<VersionRecord> records, home.registry().List());
  std::map<std::string, std::vector<std::string>> aliases;
  ASSIGN_OR_RETURN(const std::vector<AliasRecord> alias_rows, home.registry().ListAliases());
  for (const AliasRecord& alias : alias_rows) aliases[alias.version_id].push_back(alias.name);
  Json out = Json::array();
  for (const VersionRecord& record : records) {
    Json adapters = Json::array();
    for (const AdapterSlot& slot : record.manifest.adapters) {
      adapters.push_back(Json{{"slot", slot.slot}, {"digest", slot.digest.substr(0, 8)}});
    }
    out.push_back(Json{{"id", record.id},
                       {"seq", record.seq},
                       {"state", VersionStateName(record.state)},
                       {"reason", record.state_reason},
                       {"parents", record.manifest.parents},
                       {"action", record.manifest.decision.value("action", "")},
                       {"adapters", std::move(adapters)},
                       {"aliases", aliases[record.id]}});
  }
  return out;
}

}  // namespace

absl::StatusOr<Json> BuildReport(Home& home, const Stream& stream, const ReportContext& context,
                                 const FinalComparison& comparison) {
  Json report;
  report["run"] = Json{{"id", context.run_id},
                       {"base", context.base_name},
                       {"stream", context.stream_name},
                       {"stream_digest", context.stream_digest},
                       {"router", context.router},
                       {"gate", context.gate},
                       {"seed", context.seed},
                       {"machine", context.machine},
                       {"start", context.start_version},
                       {"final", context.final_version},
                       {"wall_seconds", context.wall_seconds},
                       {"sealed_looks", comparison.num_looks}};
  report["fixed"] = FixedJson(comparison);
  report["splits"] = SplitsJson(comparison);
  ASSIGN_OR_RETURN(report["decisions"], DecisionsJson(home, context.run_id));
  ASSIGN_OR_RETURN(report["verdicts"], ListEvidence(home, EvidenceKind::kVerdict, context.run_id));
  report["planted"] = PlantedJson(stream, report["decisions"]);
  report["cost"] =
      Json{{"solve", ComputeJson(context.solve)}, {"evolve", ComputeJson(context.evolve)}};
  ASSIGN_OR_RETURN(report["versions"], VersionsJson(home));
  return report;
}

std::string RenderReportHtml(const Json& report) {
  // "</" may not occur inside a script element; "<!--" neither.
  const std::string data =
      absl::StrReplaceAll(DisplayJson(report), {{"</", "<\\/"}, {"<!--", "<\\!--"}});
  const std::string page(ReportPage());
  const auto put = [](const std::string& text, absl::string_view mark, absl::string_view value) {
    const size_t at = text.find(std::string(mark));
    return text.substr(0, at) + std::string(value) + text.substr(at + mark.size());
  };
  return put(put(page, "/*CHART_JS*/", ChartJs()), "/*REPORT_JSON*/", data);
}

}  // namespace evolora
