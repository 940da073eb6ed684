#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "evolora/core/tokenizer.h"

namespace evolora {

// Turns generated ids into text piece by piece without ever cutting a character:
//   all Push() results + Finish() == ReplaceInvalidUtf8(tokenizer.Decode(ids))  (core/json.h).
// An invalid byte becomes U+FFFD as soon as it is known to be invalid. Not thread-safe.
class StreamDecoder {
 public:
  explicit StreamDecoder(std::shared_ptr<const Tokenizer> tokenizer);

  // Text that `id` completes, valid UTF-8, often "". InvalidArgument: id outside the vocabulary
  // (the decoder stays as it was).
  absl::StatusOr<std::string> Push(TokenId id);

  // U+FFFD for an unfinished character, else ""; the decoder starts afresh.
  std::string Finish();

 private:
  std::shared_ptr<const Tokenizer> tokenizer_;
  std::string pending_;             // at most 3 bytes: a character's beginning
  std::vector<TokenId> start_ids_;  // ids so far, while they decode to no text
  bool at_start_ = true;            // Decode may remove blanks at the start
};

}  // namespace evolora
