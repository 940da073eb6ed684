// eval: one version on one split of a stream, per cluster, with intervals.
#include <cstdio>
#include <utility>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "evolora/core/status_macros.h"
#include "evolora/data/stream.h"
#include "evolora/eval/evaluate.h"
#include "evolora/eval/memo_model.h"
#include "model_session.h"
#include "output.h"

namespace evolora::cli {
namespace {

struct EvalCommand {
  std::string base;
  std::string stream;
  std::string split = "query";
  std::string version = "champion";
};

absl::StatusOr<std::vector<Case>> CasesOf(Home& home, const Stream& stream,
                                          const std::string& split) {
  if (split == "stream") return stream.stream();
  if (split == "query") return stream.query();
  if (split == "anchor") return stream.anchor();
  StoreLookRecorder recorder(home.evidence(), absl::StrCat("eval-", home.clock().NowUnixMs()));
  ASSIGN_OR_RETURN(OpenedSeal seal, stream.OpenSealed(recorder, "evolora eval --split test"));
  std::fprintf(stderr, "evolora: the sealed test split was opened, look %ld at this stream\n",
               static_cast<long>(seal.num_looks));
  return std::move(seal.cases);
}

Json SummaryJson(const RateSummary& summary) {
  return Json{{"cluster", summary.cluster.empty() ? "all" : summary.cluster},
              {"cases", summary.num_cases},
              {"right", summary.right},
              {"rate", summary.num_cases > 0 ? static_cast<double>(summary.right) /
                                                   static_cast<double>(summary.num_cases)
                                             : 0.0},
              {"low", summary.rate.low},
              {"high", summary.rate.high},
              {"tool_errors", summary.tool_errors},
              {"mean_answer_tokens", summary.mean_answer_tokens}};
}

absl::Status Eval(const GlobalOptions& global, const EvalCommand& command) {
  ASSIGN_OR_RETURN(const Stream stream, LoadStream(PosixFileSystem(), command.stream));
  ASSIGN_OR_RETURN(const std::unique_ptr<Home> home, OpenHome(global));
  std::string base = command.base;
  if (base.empty()) {
    ASSIGN_OR_RETURN(const VersionRecord record, home->registry().Resolve(command.version));
    base = record.manifest.base.name;
  }
  ASSIGN_OR_RETURN(ModelSession session, OpenModel(global, base, ManyRows()));
  ASSIGN_OR_RETURN(const OpenedVersion opened,
                   OpenVersion(*home, command.version, AdapterLoader(session)));
  ASSIGN_OR_RETURN(const std::vector<Case> cases, CasesOf(*home, stream, command.split));
  MemoModel memo(*session.model, home->evidence(), ModelFingerprint(session, global));
  Solver solver(memo, SolveOptions());
  ASSIGN_OR_RETURN(const std::vector<Episode> episodes, solver.Solve(opened.view, cases));
  std::vector<RateSummary> rows = SummariseByCluster(episodes);
  rows.push_back(Summarise(episodes));
  Table table({"cluster", "cases", "right", "rate", "95 % interval", "tool errors"});
  for (const RateSummary& row : rows) {
    if (global.json) PrintJson(SummaryJson(row));
    const double n = static_cast<double>(std::max<int64_t>(1, row.num_cases));
    table.Add({row.cluster.empty() ? "all" : row.cluster, absl::StrCat(row.num_cases),
               absl::StrCat(row.right), Percent(static_cast<double>(row.right) / n),
               absl::StrCat(Percent(row.rate.low), " to ", Percent(row.rate.high)),
               absl::StrCat(row.tool_errors)});
  }
  if (!global.json) {
    std::printf("version %s on %s of %s\n%s", opened.record.id.substr(0, 12).c_str(),
                command.split.c_str(), command.stream.c_str(), table.ToText().c_str());
  }
  return absl::OkStatus();
}

}  // namespace

void AddEvalCommand(CLI::App& app, GlobalOptions& global) {
  auto options = std::make_shared<EvalCommand>();
  CLI::App* command = app.add_subcommand("eval", "a version's results on a split, with intervals");
  command->add_option("--stream", options->stream, "stream file")->required();
  command->add_option("--split", options->split, "stream, query, anchor, or test (counted)")
      ->check(CLI::IsMember({"stream", "query", "anchor", "test"}))
      ->capture_default_str();
  command->add_option("--version", options->version, "version id, prefix or alias")
      ->capture_default_str();
  command->add_option("--base", options->base, "base of this home (default: the version's)");
  command->callback([&global, options] { FinishCommand(Eval(global, *options)); });
}

}  // namespace evolora::cli
