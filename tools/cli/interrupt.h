#pragma once

#include <memory>
#include <stop_token>

namespace evolora::cli {

// While alive, SIGINT and SIGTERM request a stop instead of ending the process; a second SIGINT
// ends it. At most one at a time.
class Interrupt {
 public:
  Interrupt();
  ~Interrupt();
  Interrupt(const Interrupt&) = delete;
  Interrupt& operator=(const Interrupt&) = delete;
  std::stop_token token() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace evolora::cli
