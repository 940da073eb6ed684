#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

namespace evolora::testing {

// One run of the evolora program ($EVOLORA_PROGRAM) with its stdout on a pipe and its stderr in a
// file. Killed with the object.
class Program {
 public:
  // `folder` takes the stderr file.
  Program(const std::string& folder, const std::vector<std::string>& arguments);
  ~Program();
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;

  pid_t pid() const { return pid_; }
  // The next line of stdout without its end; nullopt at the end of the output.
  std::optional<std::string> ReadLine();
  // SIGKILL, and waits for the end.
  void Kill();
  // Reads stdout to its end and waits. The exit code, or -1 after a signal.
  int Wait();
  std::string Stderr() const;

 private:
  std::string stderr_path_;
  pid_t pid_ = -1;
  int out_ = -1;
  std::string buffer_;
};

}  // namespace evolora::testing
