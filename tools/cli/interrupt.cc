#include "interrupt.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <thread>

#include "evolora/core/check.h"

namespace evolora::cli {
namespace {

int g_wake_pipe = -1;  // a signal handler can reach nothing else

extern "C" void OnSignal(int signal_number) {
  const char byte = 1;
  [[maybe_unused]] const ssize_t ignored = write(g_wake_pipe, &byte, 1);
  struct sigaction default_action {};
  default_action.sa_handler = SIG_DFL;
  sigaction(signal_number, &default_action, nullptr);
}

}  // namespace

struct Interrupt::State {
  std::stop_source source;
  int pipe[2] = {-1, -1};
  struct sigaction old_int {};
  struct sigaction old_term {};
  std::thread watcher;
};

Interrupt::Interrupt() : state_(std::make_unique<State>()) {
  EVOLORA_CHECK(g_wake_pipe < 0, "one Interrupt at a time");
  EVOLORA_CHECK(pipe2(state_->pipe, O_CLOEXEC) == 0, "a pipe can be made");
  g_wake_pipe = state_->pipe[1];
  struct sigaction action {};
  action.sa_handler = OnSignal;
  sigaction(SIGINT, &action, &state_->old_int);
  sigaction(SIGTERM, &action, &state_->old_term);
  state_->watcher = std::thread([state = state_.get()] {
    char byte = 0;
    while (read(state->pipe[0], &byte, 1) < 0 && errno == EINTR) {
    }
    if (byte == 1) state->source.request_stop();
  });
}

Interrupt::~Interrupt() {
  sigaction(SIGINT, &state_->old_int, nullptr);
  sigaction(SIGTERM, &state_->old_term, nullptr);
  const char byte = 0;
  [[maybe_unused]] const ssize_t ignored = write(state_->pipe[1], &byte, 1);
  state_->watcher.join();
  g_wake_pipe = -1;
  close(state_->pipe[0]);
  close(state_->pipe[1]);
}

std::stop_token Interrupt::token() const { return state_->source.get_token(); }

}  // namespace evolora::cli
