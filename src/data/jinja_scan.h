#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace evolora {

struct JinjaToken {
  enum class Kind {
    kData,      // text outside of all tags
    kTag,       // "{{", "}}", "{%" or "%}", without a white space mark
    kName,      // keyword, variable, filter, attribute
    kString,    // literal, escapes resolved
    kOperator,  // one or two characters, or a number
  };
  Kind kind = Kind::kData;
  std::string text;
};

// The tokens of a Jinja template; comments are left out. Not a parser: any order of tokens passes.
// Errors: InvalidArgument: a tag or a literal without its end; names the byte offset.
absl::StatusOr<std::vector<JinjaToken>> ScanJinja(absl::string_view text);

// `tokens` without the first branch of each {% if tools %}: what a caller without tools can reach.
std::vector<JinjaToken> DropToolBranches(const std::vector<JinjaToken>& tokens);

}  // namespace evolora
