#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/statusor.h"
#include "evolora/core/case.h"
#include "evolora/core/json.h"
#include "evolora/core/trigger.h"

namespace evolora {

// Where a piece of state came from. Nothing untrusted enters the state without it.
struct Provenance {
  std::string source;      // "feedback", "import" or "operator"
  std::string episode_id;  // the failure that caused it; "" for imports
  friend bool operator==(const Provenance&, const Provenance&) = default;
};

// A fact (K). Put into the context as an earlier question-answer turn when retrieved; its rule, if
// any, goes into the system prompt, once for all entries that share it.
struct KnowledgeEntry {
  std::string key;  // unique; equal key replaces
  std::string question;
  std::string answer;
  std::string rule;                  // optional; indexed with the question
  int64_t valid_from_unix_ms = 0;    // 0 = always
  int64_t valid_until_unix_ms = 0;   // 0 = no end; at or after it the entry is not used
  std::vector<std::string> revokes;  // keys that this entry replaces
  Provenance provenance;
};

// A procedure (S of T): put into the system prompt when its trigger matches.
struct Skill {
  std::string name;  // unique, [a-z0-9-]
  std::string description;
  Trigger trigger;
  std::string instructions;
  std::string example_request;  // worked example, optional, shown as an earlier turn
  std::string example_answer;
  Provenance provenance;
};

// A line of the system prompt that every request gets.
struct PromptLine {
  std::string id;
  std::string text;
  Provenance provenance;
};

// A correction of a tool's documentation (T), put into the system prompt when the request names the
// tool.
struct ToolNote {
  std::string tool;
  std::string text;
  Provenance provenance;
};

// A case that later gates must also pass (V). Kept with the state, never trained on.
struct ValidationCase {
  Case value;
  std::string reason;  // "failure", "verifier_disputed", "ambiguous"
};

struct PutKnowledge {
  KnowledgeEntry entry;
};
struct PutSkill {
  Skill skill;
};
struct PutPromptLine {
  PromptLine line;
};
struct PutToolNote {
  ToolNote note;
};
struct PutValidationCase {
  ValidationCase validation_case;
};
struct SetSkillTrigger {
  std::string skill;
  Trigger trigger;
};
// kind: knowledge, skill, prompt, tool, validation.
struct RemoveItem {
  std::string kind;
  std::string key;
};

using PatchOp = std::variant<PutKnowledge, PutSkill, PutPromptLine, PutToolNote, PutValidationCase,
                             SetSkillTrigger, RemoveItem>;

// A change of the artifact state, as data. Applied by state::Apply; order matters.
struct Patch {
  std::string summary;  // one line, for log and report
  std::vector<PatchOp> ops;
};

Json PatchToJson(const Patch& patch);
absl::StatusOr<Patch> PatchFromJson(const Json& json);

// JSON of the single items, shared by patches and by the state's own files. Strict.
Json KnowledgeToJson(const KnowledgeEntry& entry);
Json SkillToJson(const Skill& skill);
Json PromptLineToJson(const PromptLine& line);
Json ToolNoteToJson(const ToolNote& note);
Json ValidationCaseToJson(const ValidationCase& validation_case);
absl::StatusOr<KnowledgeEntry> KnowledgeFromJson(const Json& json);
absl::StatusOr<Skill> SkillFromJson(const Json& json);
absl::StatusOr<PromptLine> PromptLineFromJson(const Json& json);
absl::StatusOr<ToolNote> ToolNoteFromJson(const Json& json);
absl::StatusOr<ValidationCase> ValidationCaseFromJson(const Json& json);

}  // namespace evolora
