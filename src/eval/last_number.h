#pragma once

#include <optional>
#include <string>

#include "absl/strings/string_view.h"

namespace evolora::internal {

// The last number of a text, by the grammar of Verify (number); nullopt when there is none.
// REQUIRES: U+2212 has been turned into "-" if it is to count as a sign.
std::optional<double> LastNumber(absl::string_view text);

}  // namespace evolora::internal
