#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "evolora/core/json.h"
#include "evolora/pipeline/home.h"
#include "evolora/pipeline/measure.h"
#include "evolora/pipeline/run.h"

namespace evolora {

// What the report says about a run beside the comparison.
struct ReportContext {
  std::string run_id;
  std::string base_name;
  std::string stream_name;
  std::string stream_digest;
  std::string router;
  bool gate = true;
  uint64_t seed = 0;
  std::string machine;  // CPU and threads, for the figures' sake
  std::string start_version;
  std::string final_version;
  Compute solve;
  Compute evolve;
  double wall_seconds = 0;  // of the sessions that made the run
};

// The report as one JSON object: headline, splits with intervals, decisions with reasons, verdicts,
// costs, version tree. Reads decisions, diagnoses, probes and verdicts of the run from the evidence
// store, and all versions from the registry. Case texts are data and stay JSON strings.
absl::StatusOr<Json> BuildReport(Home& home, const Stream& stream, const ReportContext& context,
                                 const FinalComparison& comparison);

// One self-contained page: the JSON, Chart.js and the script that draws them; needs no network.
// All text from the report enters the page as text nodes, never as markup.
std::string RenderReportHtml(const Json& report);

}  // namespace evolora
