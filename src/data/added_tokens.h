#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/functional/function_ref.h"
#include "absl/strings/string_view.h"
#include "evolora/data/tokenizer_spec.h"

namespace evolora {

// Finds added tokens in text: leftmost first, the longest of those that start together.
// Immutable, thread-safe.
class AddedTokenMatcher {
 public:
  // A stretch of text: one added token, or (token == nullptr) text between two.
  struct Part {
    const AddedToken* token;
    size_t begin;
    size_t end;
  };
  // Whether `token` may be taken at [begin, end).
  using Allow = absl::FunctionRef<bool(const AddedToken& token, size_t begin, size_t end)>;

  // REQUIRES: the texts are not empty and differ.
  explicit AddedTokenMatcher(std::vector<AddedToken> tokens);

  // The parts of `text`, in order; no text part is empty. Stripping flags widen a token's part.
  std::vector<Part> Split(absl::string_view text, Allow allow) const;

 private:
  struct Node {
    int32_t token = -1;
    std::vector<std::pair<char, int32_t>> children;
  };
  // The longest allowed token at `at`, or nullptr.
  const AddedToken* Longest(absl::string_view text, size_t at, Allow allow) const;

  std::vector<AddedToken> tokens_;
  std::vector<Node> nodes_;
  bool starts_[256] = {};
};

}  // namespace evolora
