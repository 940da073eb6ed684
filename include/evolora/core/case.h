#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "evolora/core/json.h"
#include "evolora/core/message.h"

namespace evolora {

// stream: solved in order, failures evolve the state (support). query: unseen siblings for the
// gate. anchor: protected behaviour for the gate. test: sealed, read by the final report only.
enum class Split { kStream, kQuery, kAnchor, kTest };

enum class VerifyType { kExact, kContains, kRegex, kNumber, kChoice, kToolCall };

// What BFCL allows for one argument of a call.
struct ArgumentSpec {
  std::string type;          // string, integer, number, boolean, array, object or any
  std::vector<Json> any_of;  // allowed values
  bool required = true;      // an optional argument may be left out
};

// How an output is judged. Only the fields of `type` are set.
struct VerifySpec {
  VerifyType type = VerifyType::kExact;
  std::vector<std::string> any_of;   // exact, contains: accepted texts; choice: accepted labels
  std::vector<std::string> choices;  // choice: all labels, e.g. A B C D
  std::string pattern;               // regex: RE2, searched
  double number = 0;                 // number: expected value ...
  double tolerance = 0;              // ... and absolute tolerance
  std::string tool_name;             // tool_call: expected function
  std::map<std::string, ArgumentSpec> arguments;  // tool_call
  // tool_call: names the tool runtime really knows; empty = exactly tool_name. A call of another
  // name is a tool error, whatever the expected answer says.
  std::vector<std::string> runtime_tools;
};

// What the world tells after a failure. Untrusted text.
struct CaseFeedback {
  std::string answer;  // a right output
  std::string rule;    // the rule behind it, if somebody wrote one
  std::string hint;    // gold context for the oracle probe; falls back to rule, then answer
};

// One row of a stream file (data/SCHEMA.md).
struct Case {
  std::string id;
  std::string cluster;
  Split split = Split::kStream;
  std::vector<Message> messages;
  VerifySpec verify;
  CaseFeedback feedback;
  bool is_volatile = false;  // the fact is expected to change
  bool is_private = false;   // personal or secret: never into weights
  std::string fault;  // planted fault (tool, verifier), for the report's routing accuracy only:
                      // solve, probe, decide and gate never read it
};

const char* SplitName(Split split);
const char* VerifyTypeName(VerifyType type);

// JSON of one row, both ways. Parsing is strict: an unknown field, a wrong type, an id outside
// [A-Za-z0-9._:-]{1,200}, no user turn, a regex that RE2 refuses, a choice that accepts an unknown
// label give InvalidArgument naming the case and the field. `feedback` may be absent except in
// stream.
Json CaseToJson(const Case& c);
absl::StatusOr<Case> CaseFromJson(const Json& json);

// The text of the last user turn; "" when there is none.
std::string LastUserText(const Case& c);

}  // namespace evolora
