// evolora: the command line. Parses, dispatches to one command, returns its exit code.
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "options.h"

namespace evolora::cli {
namespace {

void AddGlobalOptions(CLI::App& app, GlobalOptions& global) {
  const char* home = std::getenv("HOME");
  global.home = std::string(home != nullptr ? home : ".") + "/.evolora";
  app.add_option("--home", global.home, "folder that holds everything")
      ->envname("EVOLORA_HOME")
      ->capture_default_str();
  app.add_flag("--json", global.json, "one JSON object per line on stdout, nothing else there");
  app.add_option("--threads", global.threads, "CPU threads (0 = all)")->check(CLI::Range(0, 1024));
}

// OpenMP's threads wait for each other by spinning, for milliseconds unless told otherwise: beside
// other work on the machine a program then burns several times the time it needs. Some tens of
// microseconds bridge the gaps inside a layer. libgomp reads its environment when it is loaded,
// so this has to run before the constructors of the shared libraries do.
void LimitSpinning(int, char**, char**) {
  if (std::getenv("OMP_WAIT_POLICY") == nullptr) setenv("GOMP_SPINCOUNT", "4000", 0);
}

__attribute__((section(".preinit_array"),
               used)) void (*const kBeforeLibraries)(int, char**, char**) = LimitSpinning;

}  // namespace
}  // namespace evolora::cli

int main(int argc, char** argv) {
  using namespace evolora::cli;
  CLI::App app{"evolora: decides per failure whether to patch text or to train a LoRA adapter"};
  app.require_subcommand(1);
  app.fallthrough();
  GlobalOptions global;
  AddGlobalOptions(app, global);
  const AddCommand commands[] = {AddBaseCommand,     AddGenerateCommand, AddScoreCommand,
                                 AddTrainCommand,    AddEvalCommand,     AddRunCommand,
                                 AddVersionCommands, AddExportCommand,   AddReportCommand};
  for (const AddCommand add : commands) add(app, global);
  try {
    app.parse(argc, argv);
  } catch (const CLI::RequiredError& error) {
    const std::vector<std::string> unknown = app.remaining();
    if (unknown.empty() || !app.get_subcommands().empty())
      return app.exit(error) == 0 ? kOk : kUsage;
    std::fprintf(stderr, "evolora: unknown command '%s'; evolora --help lists them\n",
                 unknown.front().c_str());
    return kUsage;
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? kOk : kUsage;
  } catch (const CommandExit& exit) {
    return exit.code;
  }
  return kOk;
}
