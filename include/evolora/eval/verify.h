#pragma once

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "evolora/core/case.h"
#include "evolora/core/episode.h"

namespace evolora {

// InvalidArgument when `spec` could not be judged by: no accepted text, a pattern RE2 refuses, a
// label outside the choices, a negative tolerance, no tool name, an argument of unknown type ...
absl::Status ValidateSpec(const VerifySpec& spec);

// Judges one output. Pure. `output` is untrusted: more than 64 KiB fails, JSON deeper than 32
// fails. A spec that ValidateSpec refuses gives success = false with detail "verifier: why".
//
//   exact      equal to one of any_of after trimming ASCII white space of both
//   contains   one of any_of occurs as a whole phrase: ASCII case folded, typographic quotes,
//   dashes
//              and spaces as their ASCII forms, runs of white space as one blank; next to a word
//              character at the phrase's end stands no other one ([A-Za-z0-9_] and all of UTF-8
//              beyond ASCII are word characters; beyond ASCII case counts)
//   regex      RE2 finds the pattern
//   number     the last number in the output is within the absolute tolerance. A number has an
//              optional sign (not after a word character or ")"), thousands separators, decimals
//              and an exponent; digits inside a word ("v2") are none
//   choice     the first standalone label among `choices` is in any_of; labels of one character
//              match exactly, longer ones in any ASCII case
//   tool_call  the output is one JSON object {"name": .., "arguments": {..}}, nothing else but
//   white
//              space, one ```json fence and one <tool_call> tag around it. Compared as the AST
//              check of the Berkeley Function Calling Leaderboard does: the value of each argument
//              is one of the allowed ones; a string is compared without case, blanks and , . / - _
//              * ^ and with ' as "; an integer is good where a number is expected, not the other
//              way round; a value of another type than declared is good only if it has the type of
//              the first allowed value, and must then be equal; "" among the allowed values means
//              that the argument may be missing; an unexpected argument is wrong; objects hold for
//              each key the list of allowed values, lists are compared element by element. A call
//              of a function the runtime does not know (runtime_tools; empty = only tool_name) sets
//              tool_error.
//
// score is 1 or 0; detail says in words what was wrong, "" when all is right.
Feedback Verify(const VerifySpec& spec, absl::string_view output);

}  // namespace evolora
