#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace evolora {

// Cuts text at the matches of one pre-tokenizer regex. Immutable, thread-safe.
class RegexSplitter {
 public:
  // Errors: Unimplemented (TranslateRegex), InvalidArgument: does not compile, can match nothing.
  static absl::StatusOr<RegexSplitter> Create(absl::string_view pattern);

  RegexSplitter(RegexSplitter&&) noexcept;
  RegexSplitter& operator=(RegexSplitter&&) noexcept;
  ~RegexSplitter();

  // Appends the matches of `text` and the gaps between them, in order; none is empty.
  // REQUIRES: `text` is valid UTF-8. Errors: ResourceExhausted: the regex backtracks too far.
  absl::Status Split(absl::string_view text, std::vector<absl::string_view>& pieces) const;

 private:
  struct Code;
  explicit RegexSplitter(std::unique_ptr<Code> code);
  std::unique_ptr<Code> code_;
};

}  // namespace evolora
