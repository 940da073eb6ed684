#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "evolora/pipeline/home.h"

namespace CLI {
class App;
}

namespace evolora::cli {

// Exit codes of every command.
enum ExitCode { kOk = 0, kFailed = 1, kUsage = 2 };

// Options every command has.
struct GlobalOptions {
  std::string home;   // --home or EVOLORA_HOME; default ~/.evolora
  bool json = false;  // one JSON object per line on stdout and nothing else there
  int threads = 0;    // 0 = all processors of this process
};

// Number of threads that `options` mean.
int NumThreads(const GlobalOptions& options);

absl::StatusOr<std::unique_ptr<Home>> OpenHome(const GlobalOptions& options);

// One command: adds its sub-command to `app`. The callback throws CommandExit with the exit code.
using AddCommand = void (*)(CLI::App& app, GlobalOptions& global);
void AddBaseCommand(CLI::App& app, GlobalOptions& global);
void AddGenerateCommand(CLI::App& app, GlobalOptions& global);
void AddScoreCommand(CLI::App& app, GlobalOptions& global);
void AddTrainCommand(CLI::App& app, GlobalOptions& global);
void AddEvalCommand(CLI::App& app, GlobalOptions& global);
void AddRunCommand(CLI::App& app, GlobalOptions& global);
void AddVersionCommands(CLI::App& app, GlobalOptions& global);
void AddExportCommand(CLI::App& app, GlobalOptions& global);
void AddReportCommand(CLI::App& app, GlobalOptions& global);

// Reports a failure of a command on stderr and ends the program's work with kFailed.
struct CommandExit {
  int code;
};
// Throws CommandExit when `status` is not OK.
void FinishCommand(const absl::Status& status);

}  // namespace evolora::cli
