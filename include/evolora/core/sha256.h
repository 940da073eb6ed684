#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "absl/strings/string_view.h"

namespace evolora {

// Incremental SHA-256. Not thread-safe.
class Sha256 {
 public:
  Sha256();
  ~Sha256();
  Sha256(Sha256&&) noexcept;
  Sha256& operator=(Sha256&&) noexcept;

  Sha256& Update(absl::string_view bytes);
  Sha256& Update(const void* data, size_t num_bytes);
  // 64 lower-case hex digits; the object must not be used afterwards.
  std::string FinishHex();

 private:
  struct Context;
  std::unique_ptr<Context> context_;
};

// Hex digest of one string.
std::string Sha256Hex(absl::string_view bytes);

// True for exactly 64 lower-case hex digits.
bool IsSha256Hex(absl::string_view text);

}  // namespace evolora
