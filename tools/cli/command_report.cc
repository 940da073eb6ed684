// report: the page of a finished run, written again from what was kept.
#include <cstdio>

#include "CLI/CLI.hpp"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "evolora/core/status_macros.h"
#include "evolora/pipeline/report.h"
#include "options.h"
#include "output.h"

namespace evolora::cli {
namespace {

struct ReportCommand {
  std::string run;
  std::string out;
};

// The run's report file; with no run named, the newest by name order of the home's only or last
// one.
absl::StatusOr<std::string> FindReport(Home& home, const std::string& run) {
  std::vector<std::string> found;
  absl::StatusOr<std::vector<std::string>> names =
      home.files().ListDirectory(home.ReportDirectory());
  if (names.ok()) {
    for (const std::string& name : *names) {
      if (absl::EndsWith(name, ".json") && absl::StartsWith(name, run)) found.push_back(name);
    }
  }
  if (found.size() == 1) return JoinPath(home.ReportDirectory(), found[0]);
  return absl::NotFoundError(
      found.empty() ? absl::StrCat("no report of a run '", run, "' in ", home.ReportDirectory(),
                                   ": evolora run writes one when it ends")
                    : absl::StrCat(found.size(), " reports fit: name one with --run"));
}

absl::Status Report(const GlobalOptions& global, const ReportCommand& command) {
  ASSIGN_OR_RETURN(const std::unique_ptr<Home> home, OpenHome(global));
  ASSIGN_OR_RETURN(const std::string path, FindReport(*home, command.run));
  ASSIGN_OR_RETURN(const std::string text, home->files().ReadFile(path, uint64_t{1} << 30));
  ASSIGN_OR_RETURN(const Json report, ParseJson(text, {.max_bytes = size_t{1} << 30}));
  if (global.json) PrintJson(report);
  if (command.out.empty()) {
    if (!global.json) std::printf("%s\n", (path.substr(0, path.size() - 5) + ".html").c_str());
    return absl::OkStatus();
  }
  RETURN_IF_ERROR(home->files().WriteFileAtomic(command.out, RenderReportHtml(report)));
  if (!global.json) std::printf("%s\n", command.out.c_str());
  return absl::OkStatus();
}

}  // namespace

void AddReportCommand(CLI::App& app, GlobalOptions& global) {
  auto options = std::make_shared<ReportCommand>();
  CLI::App* command = app.add_subcommand("report", "the report of a finished run");
  command->add_option("--run", options->run, "run id or its beginning (default: the only one)");
  command->add_option("--out", options->out, "HTML file to write");
  command->callback([&global, options] { FinishCommand(Report(global, *options)); });
}

}  // namespace evolora::cli
