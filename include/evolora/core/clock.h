#pragma once

#include <cstdint>

namespace evolora {

// Time as a seam: nothing in evolora reads the system clock by itself. Thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;
  // Milliseconds since 1970-01-01 UTC. For log rows; never part of a version id.
  virtual int64_t NowUnixMs() const = 0;
  // Monotonic seconds from an arbitrary start. For durations.
  virtual double MonotonicSeconds() const = 0;
};

// The real clock. Never destroyed.
const Clock& SystemClock();

}  // namespace evolora
