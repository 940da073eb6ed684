#include "evolora/core/patch.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "evolora/core/status_macros.h"

namespace evolora {
namespace {

constexpr int64_t kMaxTime = std::numeric_limits<int64_t>::max();

std::string NonEmpty(JsonFields& fields, absl::string_view key) {
  std::string text = fields.String(key);
  if (text.empty()) fields.Fail(key, "empty");
  return text;
}

Json ProvenanceToJson(const Provenance& provenance) {
  Json json = {{"source", provenance.source}};
  if (!provenance.episode_id.empty()) json["episode_id"] = provenance.episode_id;
  return json;
}

absl::StatusOr<Provenance> ProvenanceFromJson(const Json& json, const std::string& path) {
  JsonFields fields(json, path);
  Provenance provenance;
  provenance.source = fields.String("source");
  provenance.episode_id = fields.OptionalString("episode_id").value_or("");
  const std::string& source = provenance.source;
  if (source != "feedback" && source != "import" && source != "operator") {
    fields.Fail("source", "must be feedback, import or operator");
  }
  RETURN_IF_ERROR(fields.Done());
  return provenance;
}

std::string SkillNameField(JsonFields& fields, absl::string_view key) {
  std::string name = NonEmpty(fields, key);
  const bool valid = std::all_of(name.begin(), name.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-';
  });
  if (!valid || name.size() > 64) fields.Fail(key, "must be 1 to 64 bytes of [a-z0-9-]");
  return name;
}

// One row per operation: the visitor writes it, ReadOp reads it.
struct OpWriter {
  Json operator()(const PutKnowledge& op) const {
    return {{"op", "put_knowledge"}, {"entry", KnowledgeToJson(op.entry)}};
  }
  Json operator()(const PutSkill& op) const {
    return {{"op", "put_skill"}, {"skill", SkillToJson(op.skill)}};
  }
  Json operator()(const PutPromptLine& op) const {
    return {{"op", "put_prompt_line"}, {"line", PromptLineToJson(op.line)}};
  }
  Json operator()(const PutToolNote& op) const {
    return {{"op", "put_tool_note"}, {"note", ToolNoteToJson(op.note)}};
  }
  Json operator()(const PutValidationCase& op) const {
    return {{"op", "put_validation_case"},
            {"validation_case", ValidationCaseToJson(op.validation_case)}};
  }
  Json operator()(const SetSkillTrigger& op) const {
    return {
        {"op", "set_skill_trigger"}, {"skill", op.skill}, {"trigger", TriggerToJson(op.trigger)}};
  }
  Json operator()(const RemoveItem& op) const {
    return {{"op", "remove"}, {"kind", op.kind}, {"key", op.key}};
  }
};

// {"op": .., <key>: <item>} with the item read by `parse`.
template <typename Op, typename Item>
absl::StatusOr<PatchOp> ReadItemOp(JsonFields& fields, absl::string_view key,
                                   absl::StatusOr<Item> (*parse)(const Json&)) {
  const Json& value = fields.Object(key);
  RETURN_IF_ERROR(fields.Done());
  ASSIGN_OR_RETURN(Item item, parse(value));
  return PatchOp(Op{std::move(item)});
}

absl::StatusOr<PatchOp> ReadSetTrigger(JsonFields& fields) {
  SetSkillTrigger op;
  op.skill = SkillNameField(fields, "skill");
  const Json& trigger = fields.Object("trigger");
  RETURN_IF_ERROR(fields.Done());
  ASSIGN_OR_RETURN(op.trigger, TriggerFromJson(trigger, "trigger"));
  return PatchOp(std::move(op));
}

absl::StatusOr<PatchOp> ReadRemove(JsonFields& fields) {
  RemoveItem op{fields.String("kind"), NonEmpty(fields, "key")};
  if (op.kind != "knowledge" && op.kind != "skill" && op.kind != "prompt" && op.kind != "tool" &&
      op.kind != "validation") {
    fields.Fail("kind", "must be knowledge, skill, prompt, tool or validation");
  }
  RETURN_IF_ERROR(fields.Done());
  return PatchOp(std::move(op));
}

absl::StatusOr<PatchOp> ReadOp(const Json& json) {
  JsonFields fields(json, "op");
  const std::string name = fields.String("op");
  RETURN_IF_ERROR(fields.status());
  if (name == "put_knowledge") return ReadItemOp<PutKnowledge>(fields, "entry", &KnowledgeFromJson);
  if (name == "put_skill") return ReadItemOp<PutSkill>(fields, "skill", &SkillFromJson);
  if (name == "put_prompt_line")
    return ReadItemOp<PutPromptLine>(fields, "line", &PromptLineFromJson);
  if (name == "put_tool_note") return ReadItemOp<PutToolNote>(fields, "note", &ToolNoteFromJson);
  if (name == "put_validation_case") {
    return ReadItemOp<PutValidationCase>(fields, "validation_case", &ValidationCaseFromJson);
  }
  if (name == "set_skill_trigger") return ReadSetTrigger(fields);
  if (name == "remove") return ReadRemove(fields);
  fields.Fail("op", "unknown operation");
  return fields.status();
}

}  // namespace

Json PatchToJson(const Patch& patch) {
  Json ops = Json::array();
  for (const PatchOp& op : patch.ops) ops.push_back(std::visit(OpWriter(), op));
  return {{"summary", patch.summary}, {"ops", std::move(ops)}};
}

absl::StatusOr<Patch> PatchFromJson(const Json& json) {
  JsonFields fields(json, "patch");
  Patch patch;
  patch.summary = fields.String("summary");
  const Json& ops = fields.Array("ops");
  RETURN_IF_ERROR(fields.Done());
  for (const Json& json_op : ops) {
    absl::StatusOr<PatchOp> op = ReadOp(json_op);
    if (!op.ok()) return Annotate(op.status(), absl::StrCat("patch.ops[", patch.ops.size(), "]"));
    patch.ops.push_back(*std::move(op));
  }
  return patch;
}

Json KnowledgeToJson(const KnowledgeEntry& entry) {
  Json json = {{"key", entry.key},
               {"question", entry.question},
               {"answer", entry.answer},
               {"provenance", ProvenanceToJson(entry.provenance)}};
  if (!entry.rule.empty()) json["rule"] = entry.rule;
  if (entry.valid_from_unix_ms != 0) json["valid_from_unix_ms"] = entry.valid_from_unix_ms;
  if (entry.valid_until_unix_ms != 0) json["valid_until_unix_ms"] = entry.valid_until_unix_ms;
  if (!entry.revokes.empty()) json["revokes"] = entry.revokes;
  return json;
}

absl::StatusOr<KnowledgeEntry> KnowledgeFromJson(const Json& json) {
  JsonFields fields(json, "knowledge");
  KnowledgeEntry entry;
  entry.key = NonEmpty(fields, "key");
  entry.question = fields.String("question");
  entry.answer = NonEmpty(fields, "answer");
  entry.rule = fields.OptionalString("rule").value_or("");
  entry.valid_from_unix_ms = fields.OptionalInteger("valid_from_unix_ms", 0, kMaxTime).value_or(0);
  entry.valid_until_unix_ms =
      fields.OptionalInteger("valid_until_unix_ms", 0, kMaxTime).value_or(0);
  if (entry.valid_until_unix_ms != 0 && entry.valid_until_unix_ms <= entry.valid_from_unix_ms) {
    fields.Fail("valid_until_unix_ms", "not after valid_from_unix_ms");
  }
  if (fields.Has("revokes")) entry.revokes = fields.StringArray("revokes");
  const Json& provenance = fields.Object("provenance");
  RETURN_IF_ERROR(fields.Done());
  ASSIGN_OR_RETURN(entry.provenance, ProvenanceFromJson(provenance, "knowledge.provenance"));
  return entry;
}

Json SkillToJson(const Skill& skill) {
  Json json = {{"name", skill.name},
               {"description", skill.description},
               {"trigger", TriggerToJson(skill.trigger)},
               {"instructions", skill.instructions},
               {"provenance", ProvenanceToJson(skill.provenance)}};
  if (!skill.example_request.empty()) json["example_request"] = skill.example_request;
  if (!skill.example_answer.empty()) json["example_answer"] = skill.example_answer;
  return json;
}

absl::StatusOr<Skill> SkillFromJson(const Json& json) {
  JsonFields fields(json, "skill");
  Skill skill;
  skill.name = SkillNameField(fields, "name");
  skill.description = fields.String("description");
  const Json& trigger = fields.Object("trigger");
  skill.instructions = fields.String("instructions");
  skill.example_request = fields.OptionalString("example_request").value_or("");
  skill.example_answer = fields.OptionalString("example_answer").value_or("");
  if (skill.example_request.empty() != skill.example_answer.empty()) {
    fields.Fail("example_request", "a worked example needs both its request and its answer");
  }
  const Json& provenance = fields.Object("provenance");
  RETURN_IF_ERROR(fields.Done());
  ASSIGN_OR_RETURN(skill.trigger, TriggerFromJson(trigger, "skill.trigger"));
  ASSIGN_OR_RETURN(skill.provenance, ProvenanceFromJson(provenance, "skill.provenance"));
  return skill;
}

Json PromptLineToJson(const PromptLine& line) {
  return {{"id", line.id}, {"text", line.text}, {"provenance", ProvenanceToJson(line.provenance)}};
}

absl::StatusOr<PromptLine> PromptLineFromJson(const Json& json) {
  JsonFields fields(json, "prompt_line");
  PromptLine line;
  line.id = NonEmpty(fields, "id");
  line.text = NonEmpty(fields, "text");
  const Json& provenance = fields.Object("provenance");
  RETURN_IF_ERROR(fields.Done());
  ASSIGN_OR_RETURN(line.provenance, ProvenanceFromJson(provenance, "prompt_line.provenance"));
  return line;
}

Json ToolNoteToJson(const ToolNote& note) {
  return {
      {"tool", note.tool}, {"text", note.text}, {"provenance", ProvenanceToJson(note.provenance)}};
}

absl::StatusOr<ToolNote> ToolNoteFromJson(const Json& json) {
  JsonFields fields(json, "tool_note");
  ToolNote note;
  note.tool = NonEmpty(fields, "tool");
  note.text = NonEmpty(fields, "text");
  const Json& provenance = fields.Object("provenance");
  RETURN_IF_ERROR(fields.Done());
  ASSIGN_OR_RETURN(note.provenance, ProvenanceFromJson(provenance, "tool_note.provenance"));
  return note;
}

Json ValidationCaseToJson(const ValidationCase& validation_case) {
  return {{"case", CaseToJson(validation_case.value)}, {"reason", validation_case.reason}};
}

absl::StatusOr<ValidationCase> ValidationCaseFromJson(const Json& json) {
  JsonFields fields(json, "validation_case");
  ValidationCase validation_case;
  const Json& value = fields.Object("case");
  validation_case.reason = fields.String("reason");
  const std::string& reason = validation_case.reason;
  if (reason != "failure" && reason != "verifier_disputed" && reason != "ambiguous") {
    fields.Fail("reason", "must be failure, verifier_disputed or ambiguous");
  }
  RETURN_IF_ERROR(fields.Done());
  ASSIGN_OR_RETURN(validation_case.value, CaseFromJson(value));
  return validation_case;
}

}  // namespace evolora
