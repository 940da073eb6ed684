#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "evolora/data/tokenizer_spec.h"

namespace evolora {

// Text that was rewritten from a stretch of the input and still knows where it came from.
class MappedText {
 public:
  // `text` as it stands at byte `begin` of the input.
  MappedText(absl::string_view text, size_t begin) : text_(text), begin_(begin) {}
  // `text` whose byte i came from the input before byte ends[i]. REQUIRES: sizes are equal.
  MappedText(std::string text, std::vector<uint32_t> ends)
      : text_(std::move(text)), ends_(std::move(ends)), is_identity_(false) {}

  const std::string& text() const { return text_; }
  // End in the input of what the first `n` bytes came from. REQUIRES: 1 <= n <= text().size().
  size_t InputEnd(size_t n) const { return is_identity_ ? begin_ + n : ends_[n - 1]; }
  // The part [begin, begin + size).
  MappedText Slice(size_t begin, size_t size) const;

 private:
  std::string text_;
  size_t begin_ = 0;
  std::vector<uint32_t> ends_;
  bool is_identity_ = true;
};

// Canonical composition (NFC).
absl::StatusOr<std::string> ToNfc(absl::string_view text);
absl::StatusOr<MappedText> ToNfc(MappedText text);

// Blanks as U+2581, with a U+2581 in front where `mark` says so. `is_first`: `text` is the start of
// the whole input.
MappedText MarkSpaces(const MappedText& text, SpaceMark mark, bool is_first);

}  // namespace evolora
