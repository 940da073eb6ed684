#pragma once

#include <map>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "evolora/core/patch.h"

namespace evolora {

// The artifact state pi_S: what the model is given beside its weights. A plain value.
struct ArtifactState {
  std::vector<PromptLine> prompt;                    // in order of arrival; ids unique
  std::map<std::string, KnowledgeEntry> knowledge;   // K, by key
  std::map<std::string, Skill> skills;               // T, by name
  std::map<std::string, ToolNote> tool_notes;        // T, by tool; one note a tool
  std::map<std::string, ValidationCase> validation;  // V, by case id
};

// Applies the operations in order and returns the new state; `state` is untouched, and an error
// leaves nothing half done. Put* replaces an item with the same key; a replaced prompt line keeps
// its place. PutKnowledge removes the entries it revokes.
//
// Errors: FailedPrecondition "ambiguous": a knowledge entry asks the same question (NormaliseText)
//           as another one valid at the same time, with another answer, and does not revoke it
//         NotFound           RemoveItem, SetSkillTrigger or `revokes` names nothing there
//         InvalidArgument    a field is empty, too long (kMaxItemBytes), a bad name, kind,
//                            trigger or provenance, or valid_until <= valid_from
// Every message starts with the number and kind of the operation: "op 2 (put_knowledge 'x'): ...".
absl::StatusOr<ArtifactState> Apply(const ArtifactState& state, const Patch& patch);

// Whether all that the patch puts in is there already: the same keys with the same answer, rule,
// instructions, line or note. Where an item came from, a skill's trigger and its worked example are
// not compared. False for a patch that puts in nothing a request could be given.
bool StateHolds(const ArtifactState& state, const Patch& patch);

// Longest text field of one item.
inline constexpr size_t kMaxItemBytes = 64u << 10;

// What differs from `before` to `after`, in words, one line an item, sorted by kind and key:
// "added knowledge 'x'", "removed prompt 'y'", "changed skill 'z': trigger, instructions".
std::vector<std::string> Diff(const ArtifactState& before, const ArtifactState& after);

// The state as the four documents a version keeps, each canonical JSON: equal states, equal bytes.
//   {"format":"evolora-prompt-1","lines":[PromptLine ...]}              in order
//   {"format":"evolora-knowledge-1","entries":[KnowledgeEntry ...]}     sorted by key
//   {"format":"evolora-tools-1","notes":[ToolNote ...],"skills":[Skill ...]}  sorted by name
//   {"cases":[ValidationCase ...],"format":"evolora-validation-1"}      sorted by id
struct StateDocuments {
  std::string prompt;
  std::string knowledge;
  std::string tools;
  std::string validation;
  friend bool operator==(const StateDocuments&, const StateDocuments&) = default;
};
StateDocuments ToDocuments(const ArtifactState& state);

// SHA-256 of each document, in the same fields.
StateDocuments DocumentDigests(const StateDocuments& documents);

// The way back, strict: unknown field, wrong format name, duplicate or unsorted item, ambiguous
// knowledge or text that is not canonical gives InvalidArgument naming the document.
absl::StatusOr<ArtifactState> FromDocuments(const StateDocuments& documents);

// Text for comparing questions and answers: ASCII letters folded to lower case, every run of ASCII
// white space and punctuation as one blank, none at the ends; other bytes as they are.
std::string NormaliseText(absl::string_view text);

}  // namespace evolora
