#include "evolora/core/clock.h"

#include <chrono>

namespace evolora {
namespace {

class RealClock final : public Clock {
 public:
  int64_t NowUnixMs() const override {
    const auto since_epoch = std::chrono::system_clock::now().time_since_epoch();
    return std::chrono::duration_cast<std::chrono::milliseconds>(since_epoch).count();
  }
  double MonotonicSeconds() const override {
    const auto since_start = std::chrono::steady_clock::now().time_since_epoch();
    return std::chrono::duration<double>(since_start).count();
  }
};

}  // namespace

const Clock& SystemClock() {
  static const Clock* const clock = new RealClock();
  return *clock;
}

}  // namespace evolora
