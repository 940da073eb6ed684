#pragma once

// EVOLORA_CHECK(condition, reason): for a wrong line of our own code, never for input.
// Prints file, line, condition and reason to stderr and aborts. On in every build type.
#define EVOLORA_CHECK(condition, reason)                                                        \
  do {                                                                                          \
    if (!(condition)) ::evolora::internal::CheckFailed(__FILE__, __LINE__, #condition, reason); \
  } while (false)

namespace evolora::internal {
[[noreturn]] void CheckFailed(const char* file, int line, const char* condition,
                              const char* reason);
}  // namespace evolora::internal
