#pragma once

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "evolora/core/json.h"
#include "evolora/core/message.h"

namespace evolora {

// Where a skill or an adapter applies: a matcher over the request, the same for both.
// A request matches when every part that is set holds on its text (RequestText). Matching is on
// ASCII-case-folded text with runs of white space as one blank. A Trigger with nothing set and
// `all` false matches nothing.
struct Trigger {
  bool all = false;                  // matches every request; the other fields must be empty
  std::vector<std::string> all_of;   // substrings that must all occur
  std::vector<std::string> any_of;   // at least one must occur (if any is given)
  std::vector<std::string> none_of;  // none may occur
  std::string regex;                 // RE2 pattern, searched case-insensitively; "" = not used
  friend bool operator==(const Trigger&, const Trigger&) = default;
};

// System and user turns joined by "\n": what a trigger sees. Assistant and tool turns are left out.
std::string RequestText(absl::Span<const Message> messages);

// InvalidArgument: regex does not compile or exceeds limits, an empty or too long term, too many
// terms, `all` together with other fields.
absl::Status ValidateTrigger(const Trigger& trigger);
// REQUIRES: ValidateTrigger(trigger) is OK.
bool Matches(const Trigger& trigger, absl::string_view request_text);

Json TriggerToJson(const Trigger& trigger);
absl::StatusOr<Trigger> TriggerFromJson(const Json& json, const std::string& path);

// Finds a trigger that matches every text of `inside` and no text of `outside`, for the scope of a
// skill or an adapter from the failures of a cluster. Terms are word sequences shared by the inside
// texts, at least 4 letters or digits long. The first of these that exists:
//   1. all_of with the fewest phrases that every inside text contains; among equals the longest;
//   2. any_of with few phrases (greedy cover), each in no outside text and in two inside texts or
//   more.
// Deterministic; the order of the texts does not matter. Linear in the length of the texts.
// Errors: InvalidArgument  inside is empty or max_terms is not in [1, 16]
//         NotFound         no such trigger has at most `max_terms` terms
absl::StatusOr<Trigger> DeriveTrigger(absl::Span<const std::string> inside,
                                      absl::Span<const std::string> outside, int max_terms = 3);

}  // namespace evolora
