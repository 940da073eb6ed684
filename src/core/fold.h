#pragma once

#include <string>

#include "absl/strings/string_view.h"

namespace evolora {

// What triggers are matched on: ASCII letters in lower case, each run of white space as one blank.
std::string FoldText(absl::string_view text);

}  // namespace evolora
