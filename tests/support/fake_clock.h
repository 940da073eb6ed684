#pragma once

#include <atomic>
#include <cmath>

#include "evolora/core/clock.h"

namespace evolora::testing {

// A clock that stands still until a test moves it. Both readings move together. Thread-safe.
class FakeClock final : public Clock {
 public:
  explicit FakeClock(int64_t start_unix_ms = 1'700'000'000'000) : unix_ms_(start_unix_ms) {}

  int64_t NowUnixMs() const override { return unix_ms_.load(); }
  double MonotonicSeconds() const override { return static_cast<double>(passed_ms_.load()) / 1000; }

  void AdvanceMs(int64_t ms) {
    unix_ms_ += ms;
    passed_ms_ += ms;
  }
  void AdvanceSeconds(double seconds) { AdvanceMs(std::llround(seconds * 1000)); }

 private:
  std::atomic<int64_t> unix_ms_;
  std::atomic<int64_t> passed_ms_{0};
};

}  // namespace evolora::testing
