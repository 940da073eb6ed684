// export: a version's adapters as files other programs load.
#include <cstdio>

#include "CLI/CLI.hpp"
#include "evolora/core/status_macros.h"
#include "evolora/pipeline/export_adapter.h"
#include "model_session.h"
#include "output.h"

namespace evolora::cli {
namespace {

struct ExportCommand {
  std::string version;
  std::string format = "peft";
  std::string out;
};

absl::Status Export(const GlobalOptions& global, const ExportCommand& command) {
  ASSIGN_OR_RETURN(const std::unique_ptr<Home> home, OpenHome(global));
  ASSIGN_OR_RETURN(const VersionRecord record, home->registry().Resolve(command.version));
  ASSIGN_OR_RETURN(ModelSession session, OpenModel(global, record.manifest.base.name, {}));
  ASSIGN_OR_RETURN(const OpenedVersion opened,
                   OpenVersion(*home, record.id, AdapterLoader(session)));
  ASSIGN_OR_RETURN(const std::vector<ExportedAdapter> exported,
                   ExportPeft(*home, *session.model, opened, command.out));
  for (const ExportedAdapter& adapter : exported) {
    if (global.json) {
      PrintJson(Json{{"slot", adapter.slot},
                     {"serving_name", adapter.serving_name},
                     {"directory", adapter.directory},
                     {"digest", adapter.digest}});
    } else {
      std::printf("adapter %s: %s, serve it as %s\n", adapter.slot.c_str(),
                  adapter.directory.c_str(), adapter.serving_name.c_str());
    }
  }
  return absl::OkStatus();
}

}  // namespace

void AddExportCommand(CLI::App& app, GlobalOptions& global) {
  auto options = std::make_shared<ExportCommand>();
  CLI::App* command = app.add_subcommand("export", "write a version's adapters as PEFT folders");
  command->add_option("version", options->version, "version id, prefix or alias")->required();
  command->add_option("--format", options->format, "peft")
      ->check(CLI::IsMember({"peft"}))
      ->capture_default_str();
  command->add_option("--out", options->out, "folder to write")->required();
  command->callback([&global, options] { FinishCommand(Export(global, *options)); });
}

}  // namespace evolora::cli
