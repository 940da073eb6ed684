#pragma once

#include <cstddef>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace evolora {

// ASCII lower case, every run of ASCII punctuation and white space as one blank, none at the ends.
// What keys, near-duplicates and contradictions are compared by. Other bytes stay as they are.
std::string NormalizeText(absl::string_view text);

struct TextLimits {
  size_t max_bytes = 4096;
};

// Whether text from outside may become state or training data. InvalidArgument names `what`, the
// rule and the byte offset for: invalid UTF-8; control and invisible format characters (tab,
// newline and carriage return are fine); chat-template marks such as <|im_start|>, [INST], <<SYS>>,
// <start_of_turn>; phrases that try to override instructions; more than max_bytes. A filter against
// the plain attacks, not a proof: what passes still faces the gate.
absl::Status CheckUntrustedText(absl::string_view what, absl::string_view text,
                                const TextLimits& limits = {});

}  // namespace evolora
