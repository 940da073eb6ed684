#pragma once

#include <cstddef>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"

namespace evolora {

// ASCII lower case, with runs of white space and sentence marks (. , ; : ! ? quotes) as one blank
// and none at the ends. Marks between digits and all operators and brackets stay: 5+3, 5-3 and 3.5
// differ. What keys, near-duplicates and contradictions are compared by. Other bytes stay as they
// are.
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
