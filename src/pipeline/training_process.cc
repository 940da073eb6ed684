#include "evolora/pipeline/training_process.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"
#include "evolora/adapters/peft.h"
#include "evolora/core/status_macros.h"

namespace evolora {
namespace {

// A child with its stdout on a pipe and its stderr appended to a file.
class Child {
 public:
  static absl::StatusOr<Child> Start(const std::vector<std::string>& arguments,
                                     const std::string& log_path) {
    int out[2];
    if (pipe2(out, O_CLOEXEC) != 0) return Error("pipe");
    const int log = open(log_path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (log < 0) return Error(log_path.c_str());
    std::vector<char*> argv;
    for (const std::string& argument : arguments)
      argv.push_back(const_cast<char*>(argument.c_str()));
    argv.push_back(nullptr);
    const pid_t pid = fork();
    if (pid < 0) return Error("fork");
    if (pid == 0) Exec(argv.data(), out[1], log);
    close(out[1]);
    close(log);
    return Child(pid, out[0]);
  }

  Child(Child&& other) noexcept
      : pid_(std::exchange(other.pid_, -1)), out_(std::exchange(other.out_, -1)) {}
  Child& operator=(Child&&) = delete;
  ~Child() {
    if (out_ >= 0) close(out_);
    if (pid_ <= 0) return;
    kill(pid_, SIGKILL);
    waitpid(pid_, nullptr, 0);
  }

  // Calls `on_line` for every line of stdout until the child closes it. On stop the child is sent
  // SIGINT once.
  void ReadLines(const std::function<void(absl::string_view)>& on_line,
                 const std::stop_token& stop) {
    std::string buffer;
    bool told = false;
    for (;;) {
      if (stop.stop_requested() && !told) {
        kill(pid_, SIGINT);
        told = true;
      }
      pollfd ready{.fd = out_, .events = POLLIN};
      if (poll(&ready, 1, /*timeout_ms=*/200) == 0) continue;
      char bytes[4096];
      const ssize_t count = read(out_, bytes, sizeof(bytes));
      if (count < 0 && errno == EINTR) continue;
      if (count <= 0) return;
      buffer.append(bytes, static_cast<size_t>(count));
      for (size_t end; (end = buffer.find('\n')) != std::string::npos; buffer.erase(0, end + 1)) {
        on_line(absl::string_view(buffer).substr(0, end));
      }
    }
  }

  // Waits for the end; "" for exit code 0, else how it ended.
  std::string Wait() {
    int status = 0;
    while (waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
    }
    pid_ = -1;
    if (WIFEXITED(status)) {
      return WEXITSTATUS(status) == 0 ? "" : absl::StrCat("exit code ", WEXITSTATUS(status));
    }
    return absl::StrCat("signal ", WTERMSIG(status));
  }

 private:
  Child(pid_t pid, int out) : pid_(pid), out_(out) {}

  static absl::Status Error(absl::string_view what) {
    return absl::InternalError(absl::StrCat("training child: ", what, ": ", std::strerror(errno)));
  }

  // In the child, between fork and exec: async-signal-safe calls only.
  [[noreturn]] static void Exec(char** argv, int out, int log) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    dup2(out, STDOUT_FILENO);
    dup2(log, STDERR_FILENO);
    const int null = open("/dev/null", O_RDONLY);
    if (null >= 0) dup2(null, STDIN_FILENO);
    execv(argv[0], argv);
    _exit(127);
  }

  pid_t pid_;
  int out_;
};

// The last line of a log, for messages.
std::string LastLine(FileSystem& files, const std::string& path) {
  const absl::StatusOr<std::string> text = files.ReadFile(path, uint64_t{64} << 20);
  if (!text.ok()) return "";
  std::string last;
  for (absl::string_view line : absl::StrSplit(*text, '\n', absl::SkipWhitespace())) {
    last = std::string(absl::StripAsciiWhitespace(line));
  }
  return last;
}

class ProcessRunner {
 public:
  ProcessRunner(Home& home, TrainingProcessOptions options)
      : home_(&home), options_(std::move(options)) {}

  absl::StatusOr<TrainingOutcome> Run(const TrainingRequest& request, const std::stop_token& stop) {
    const std::string job = home_->JobDirectory(request.job_digest);
    FileSystem& files = home_->files();
    RETURN_IF_ERROR(files.CreateDirectories(job));
    if (!files.Exists(JoinPath(job, "adapter"))) RETURN_IF_ERROR(Train(request, job, stop));
    ASSIGN_OR_RETURN(PeftAdapter peft, ReadPeftFolder(files, JoinPath(job, "adapter")));
    TrainingOutcome outcome{.adapter = std::move(peft.adapter)};
    ASSIGN_OR_RETURN(outcome.compute, ReadSummary(JoinPath(job, "adapter.work/summary.json")));
    return outcome;
  }

 private:
  absl::Status Train(const TrainingRequest& request, const std::string& job,
                     const std::stop_token& stop) {
    FileSystem& files = home_->files();
    RETURN_IF_ERROR(files.WriteFileAtomic(JoinPath(job, "data.jsonl"), request.data_jsonl));
    RETURN_IF_ERROR(
        files.WriteFileAtomic(JoinPath(job, "protected.jsonl"), request.protected_jsonl));
    RETURN_IF_ERROR(
        files.WriteFileAtomic(JoinPath(job, "recipe.json"), CanonicalJson(request.recipe)));
    const std::string log = JoinPath(job, "train.log");
    ASSIGN_OR_RETURN(Child child, Child::Start(Arguments(job), log));
    child.ReadLines([this](absl::string_view line) { Report(line); }, stop);
    const std::string fault = child.Wait();
    if (stop.stop_requested()) return absl::CancelledError("training was stopped");
    if (fault.empty()) return absl::OkStatus();
    return absl::AbortedError(absl::StrCat("training child ended with ", fault, ": ",
                                           LastLine(files, log), " (log: ", log, ")"));
  }

  std::vector<std::string> Arguments(const std::string& job) const {
    std::vector<std::string> arguments = {options_.executable,
                                          "train",
                                          "--home",
                                          home_->directory(),
                                          "--base",
                                          options_.base_name,
                                          "--data",
                                          JoinPath(job, "data.jsonl"),
                                          "--protect",
                                          JoinPath(job, "protected.jsonl"),
                                          "--recipe",
                                          JoinPath(job, "recipe.json"),
                                          "--out",
                                          JoinPath(job, "adapter"),
                                          "--resume",
                                          "--json",
                                          "--device",
                                          options_.device};
    if (options_.num_threads > 0) {
      arguments.insert(arguments.end(), {"--threads", absl::StrCat(options_.num_threads)});
    }
    return arguments;
  }

  void Report(absl::string_view line) const {
    if (!options_.on_progress) return;
    const absl::StatusOr<Json> json = ParseJson(line);
    if (!json.ok() || !json->is_object() || !json->contains("step")) return;
    options_.on_progress({.step = json->value("step", int64_t{0}),
                          .total_steps = json->value("total_steps", int64_t{0}),
                          .loss = json->value("loss", 0.0),
                          .tokens_per_second = json->value("tokens_per_second", 0.0)});
  }

  absl::StatusOr<Compute> ReadSummary(const std::string& path) const {
    ASSIGN_OR_RETURN(const std::string text, home_->files().ReadFile(path, 1 << 20));
    ASSIGN_OR_RETURN(const Json json, ParseJson(text));
    JsonFields f(json, "summary");
    Compute compute;
    compute.trained_tokens = f.Integer("trained_tokens", 0, int64_t{1} << 50);
    compute.flops = f.Number("flops");
    compute.seconds = f.Number("seconds");
    f.Number("final_loss");
    f.Integer("steps", 0, int64_t{1} << 50);
    RETURN_IF_ERROR(f.Done());
    return compute;
  }

  Home* home_;
  TrainingProcessOptions options_;
};

}  // namespace

TrainingRunner MakeTrainingProcessRunner(Home& home, TrainingProcessOptions options) {
  auto runner = std::make_shared<ProcessRunner>(home, std::move(options));
  return [runner](const TrainingRequest& request, std::stop_token stop) {
    return runner->Run(request, stop);
  };
}

}  // namespace evolora
