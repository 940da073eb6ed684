#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "gtest/gtest.h"

namespace evolora::testing {

// Deterministic mutations of seed inputs: bit flips, truncation, insertion, removal, splices of two
// seeds, and edits of length fields (binary little-endian or decimal text) to values at the edges.
// Equal seeds and equal `seed` give the same sequence on every platform.
class Mutator {
 public:
  // REQUIRES: `seeds` is not empty.
  Mutator(std::vector<std::string> seeds, uint64_t seed)
      : seeds_(std::move(seeds)), engine_(seed) {}

  // The next input: one seed with 1 to 4 mutations.
  std::string Next() {
    std::string input = seeds_[Below(seeds_.size())];
    for (uint64_t n = 1 + Below(4); n > 0; --n) MutateOnce(input);
    return input;
  }

 private:
  uint64_t Below(uint64_t bound) { return bound == 0 ? 0 : engine_() % bound; }

  void MutateOnce(std::string& s) {
    switch (Below(7)) {
      case 0:
        FlipBits(s);
        break;
      case 1:
        s.resize(Below(s.size() + 1));
        break;
      case 2:
        s.insert(Below(s.size() + 1), RandomBytes(1 + Below(8)));
        break;
      case 3:
        s.erase(Below(s.size() + 1), 1 + Below(16));
        break;
      case 4:
        Splice(s);
        break;
      case 5:
        EditBinaryField(s);
        break;
      default:
        EditDecimal(s);
        break;
    }
  }

  void FlipBits(std::string& s) {
    for (uint64_t n = 1 + Below(4); n > 0 && !s.empty(); --n) {
      s[Below(s.size())] ^= static_cast<char>(1u << Below(8));
    }
  }

  std::string RandomBytes(uint64_t n) {
    std::string bytes;
    while (bytes.size() < n) bytes.push_back(static_cast<char>(Below(256)));
    return bytes;
  }

  // Replaces a range by a range of any seed.
  void Splice(std::string& s) {
    const std::string& other = seeds_[Below(seeds_.size())];
    const size_t from = Below(other.size() + 1);
    const size_t at = Below(s.size() + 1);
    s.replace(at, Below(32), other.substr(from, Below(64)));
  }

  uint64_t EdgeValue(uint64_t size) {
    switch (Below(8)) {
      case 0:
        return 0;
      case 1:
        return ~uint64_t{0};
      case 2:
        return uint64_t{1} << 63;
      case 3:
        return uint64_t{1} << 31;
      case 4:
        return (uint64_t{1} << 32) - 1;
      case 5:
        return size + Below(17) - 8;
      case 6:
        return uint64_t{1} << Below(64);
      default:
        return Below(300);
    }
  }

  void EditBinaryField(std::string& s) {
    static constexpr size_t kWidths[] = {8, 4, 2, 1};
    const size_t width = kWidths[Below(4)];
    if (s.size() < width) return;
    const size_t at = Below(s.size() - width + 1);
    const uint64_t value = EdgeValue(s.size());
    for (size_t i = 0; i < width; ++i) s[at + i] = static_cast<char>(value >> (8 * i));
  }

  // Replaces the first run of digits at or after a random place.
  void EditDecimal(std::string& s) {
    static constexpr char kDigits[] = "0123456789";
    const size_t begin = s.find_first_of(kDigits, Below(s.size() + 1));
    if (begin == std::string::npos) return;
    size_t end = s.find_first_not_of(kDigits, begin);
    if (end == std::string::npos) end = s.size();
    const std::string sign = Below(8) == 0 ? "-" : "";
    const std::string exponent = Below(8) == 0 ? "e999" : "";
    s.replace(begin, end - begin, sign + std::to_string(EdgeValue(s.size())) + exponent);
  }

  std::vector<std::string> seeds_;
  std::mt19937_64 engine_;
};

// Codes that a reader of untrusted bytes may answer with.
inline bool IsReaderError(absl::StatusCode code) {
  return code == absl::StatusCode::kInvalidArgument || code == absl::StatusCode::kDataLoss ||
         code == absl::StatusCode::kUnimplemented || code == absl::StatusCode::kNotFound ||
         code == absl::StatusCode::kResourceExhausted;
}

// First bytes as hex, for a failure message.
inline std::string HexHead(const std::string& bytes, size_t max_bytes = 512) {
  std::string hex;
  char buffer[3];
  for (size_t i = 0; i < bytes.size() && i < max_bytes; ++i) {
    std::snprintf(buffer, sizeof(buffer), "%02x", static_cast<unsigned char>(bytes[i]));
    hex += buffer;
  }
  return hex;
}

struct MutationResult {
  int64_t num_ok = 0;
  int64_t num_refused = 0;
};

// Feeds every seed as it is (must be accepted), then `iterations` mutated inputs to `parse`, which
// must come back and, when it refuses, do so with a reader's error and some words. Run it under the
// address sanitizer: crashes and bad reads are the sanitizer's to find. EVOLORA_FUZZ_ITERATIONS
// replaces the number, EVOLORA_FUZZ_SEED the seed.
inline MutationResult RunMutations(const std::vector<std::string>& seeds, int64_t iterations,
                                   uint64_t seed,
                                   const std::function<absl::Status(const std::string&)>& parse) {
  if (const char* text = std::getenv("EVOLORA_FUZZ_ITERATIONS")) iterations = std::atoll(text);
  if (const char* text = std::getenv("EVOLORA_FUZZ_SEED")) seed = std::strtoull(text, nullptr, 10);
  MutationResult result;
  for (const std::string& input : seeds) {
    const absl::Status status = parse(input);
    EXPECT_TRUE(status.ok()) << "a seed is refused: " << status << "\n" << HexHead(input);
  }
  Mutator mutator(seeds, seed);
  for (int64_t i = 0; i < iterations; ++i) {
    const std::string input = mutator.Next();
    const absl::Status status = parse(input);
    ++(status.ok() ? result.num_ok : result.num_refused);
    if (status.ok() || (IsReaderError(status.code()) && !status.message().empty())) continue;
    ADD_FAILURE() << "input " << i << ": " << status << "\n" << HexHead(input);
    break;
  }
  return result;
}

}  // namespace evolora::testing
