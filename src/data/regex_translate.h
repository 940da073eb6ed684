#pragma once

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

namespace evolora {

// Rewrites a pre-tokenizer regex, written for Oniguruma (Ruby syntax, Unicode), to PCRE2's syntax
// with the same matches. Understood: literals, groups ( (?: (?i: (?= (?! , classes without nesting,
// general categories \p{L} \P{Nd}, \s \S \d \r \n \t, escaped punctuation, and the quantifiers * +
// ? {n} {n,} {n,m}, lazy or possessive where both engines agree. The engines' \s differ (PCRE2's
// holds U+180E), so it is spelled out. Errors: Unimplemented names the construct and its byte
// offset.
absl::StatusOr<std::string> TranslateRegex(absl::string_view pattern);

}  // namespace evolora
