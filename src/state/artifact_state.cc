#include "evolora/state/artifact_state.h"

#include <algorithm>
#include <cstdint>
#include <set>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "evolora/core/status_macros.h"

namespace evolora {
namespace {

constexpr size_t kMaxKeyBytes = 256;

std::string Quoted(absl::string_view text) {
  return absl::StrCat("'", absl::CHexEscape(text), "'");
}

absl::Status CheckKey(absl::string_view field, const std::string& key) {
  const bool control = std::any_of(key.begin(), key.end(), [](char c) {
    return absl::ascii_iscntrl(static_cast<unsigned char>(c));
  });
  if (!key.empty() && key.size() <= kMaxKeyBytes && !control) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(field, " ", Quoted(key.substr(0, 80)), " of ",
                                                 key.size(), " bytes: 1..", kMaxKeyBytes,
                                                 " bytes without control characters"));
}

absl::Status CheckText(absl::string_view field, const std::string& text, bool required) {
  if (required && absl::StripAsciiWhitespace(text).empty()) {
    return absl::InvalidArgumentError(absl::StrCat(field, " is empty"));
  }
  if (text.size() > kMaxItemBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat(field, " has ", text.size(), " bytes, at most ", kMaxItemBytes));
  }
  return absl::OkStatus();
}

absl::Status CheckSkillName(const std::string& name) {
  const bool good = std::all_of(name.begin(), name.end(), [](char c) {
    return absl::ascii_islower(static_cast<unsigned char>(c)) ||
           absl::ascii_isdigit(static_cast<unsigned char>(c)) || c == '-';
  });
  if (good && !name.empty() && name.size() <= kMaxKeyBytes) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("skill name ", Quoted(name), ": [a-z0-9-] only"));
}

absl::Status CheckProvenance(const Provenance& provenance) {
  if (provenance.source == "feedback" || provenance.source == "import" ||
      provenance.source == "operator") {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("provenance.source ", Quoted(provenance.source),
                                                 " is none of feedback, import, operator"));
}

bool Overlap(const KnowledgeEntry& a, const KnowledgeEntry& b) {
  const auto end = [](const KnowledgeEntry& e) {
    return e.valid_until_unix_ms == 0 ? INT64_MAX : e.valid_until_unix_ms;
  };
  return a.valid_from_unix_ms < end(b) && b.valid_from_unix_ms < end(a);
}

absl::Status CheckKnowledge(const KnowledgeEntry& entry) {
  RETURN_IF_ERROR(CheckKey("key", entry.key));
  RETURN_IF_ERROR(CheckText("question", entry.question, true));
  RETURN_IF_ERROR(CheckText("answer", entry.answer, true));
  RETURN_IF_ERROR(CheckText("rule", entry.rule, false));
  if (entry.valid_until_unix_ms != 0 && entry.valid_until_unix_ms <= entry.valid_from_unix_ms) {
    return absl::InvalidArgumentError(absl::StrCat("valid until ", entry.valid_until_unix_ms,
                                                   " but from ", entry.valid_from_unix_ms));
  }
  return CheckProvenance(entry.provenance);
}

absl::Status CheckSkill(const Skill& skill) {
  RETURN_IF_ERROR(CheckSkillName(skill.name));
  RETURN_IF_ERROR(CheckText("description", skill.description, false));
  RETURN_IF_ERROR(CheckText("instructions", skill.instructions, true));
  RETURN_IF_ERROR(CheckText("example_request", skill.example_request, false));
  RETURN_IF_ERROR(CheckText("example_answer", skill.example_answer, false));
  if (skill.example_request.empty() != skill.example_answer.empty()) {
    return absl::InvalidArgumentError("a worked example needs both request and answer");
  }
  RETURN_IF_ERROR(CheckProvenance(skill.provenance));
  return ValidateTrigger(skill.trigger);
}

// Knowledge by normalised question, kept in step with the state while a patch runs.
class QuestionIndex {
 public:
  explicit QuestionIndex(const std::map<std::string, KnowledgeEntry>& knowledge) {
    for (const auto& [key, entry] : knowledge) Add(entry);
  }
  void Add(const KnowledgeEntry& entry) { keys_[NormaliseText(entry.question)].insert(entry.key); }
  void Remove(const KnowledgeEntry& entry) {
    keys_[NormaliseText(entry.question)].erase(entry.key);
  }

  // FailedPrecondition when another entry that is valid at the same time gives another answer to
  // the same question.
  absl::Status CheckUnambiguous(const std::map<std::string, KnowledgeEntry>& knowledge,
                                const KnowledgeEntry& entry) const {
    const auto it = keys_.find(NormaliseText(entry.question));
    if (it == keys_.end()) return absl::OkStatus();
    for (const std::string& key : it->second) {
      const KnowledgeEntry& other = knowledge.at(key);
      if (key == entry.key || !Overlap(entry, other) ||
          NormaliseText(other.answer) == NormaliseText(entry.answer)) {
        continue;
      }
      return absl::FailedPreconditionError(absl::StrCat(
          "ambiguous: ", Quoted(key), " answers the same question with ", Quoted(other.answer),
          ", not ", Quoted(entry.answer), ", and is not revoked"));
    }
    return absl::OkStatus();
  }

 private:
  std::map<std::string, std::set<std::string>> keys_;
};

// One operation at a time on a state that is ours to change.
class Applier {
 public:
  explicit Applier(ArtifactState& state) : state_(state), questions_(state.knowledge) {}

  absl::Status operator()(const PutKnowledge& op) {
    const KnowledgeEntry& entry = op.entry;
    RETURN_IF_ERROR(CheckKnowledge(entry));
    for (const std::string& revoked : entry.revokes) {
      if (revoked != entry.key && !EraseKnowledge(revoked)) {
        return absl::NotFoundError(
            absl::StrCat("revokes ", Quoted(revoked), ", which is not there"));
      }
    }
    RETURN_IF_ERROR(questions_.CheckUnambiguous(state_.knowledge, entry));
    EraseKnowledge(entry.key);
    questions_.Add(entry);
    state_.knowledge[entry.key] = entry;
    return absl::OkStatus();
  }

  absl::Status operator()(const PutSkill& op) {
    RETURN_IF_ERROR(CheckSkill(op.skill));
    state_.skills[op.skill.name] = op.skill;
    return absl::OkStatus();
  }

  absl::Status operator()(const PutPromptLine& op) {
    RETURN_IF_ERROR(CheckKey("id", op.line.id));
    RETURN_IF_ERROR(CheckText("text", op.line.text, true));
    RETURN_IF_ERROR(CheckProvenance(op.line.provenance));
    const auto it = FindPrompt(op.line.id);
    if (it == state_.prompt.end()) {
      state_.prompt.push_back(op.line);
    } else {
      *it = op.line;
    }
    return absl::OkStatus();
  }

  absl::Status operator()(const PutToolNote& op) {
    RETURN_IF_ERROR(CheckKey("tool", op.note.tool));
    RETURN_IF_ERROR(CheckText("text", op.note.text, true));
    RETURN_IF_ERROR(CheckProvenance(op.note.provenance));
    state_.tool_notes[op.note.tool] = op.note;
    return absl::OkStatus();
  }

  absl::Status operator()(const PutValidationCase& op) {
    RETURN_IF_ERROR(CheckKey("case id", op.validation_case.value.id));
    state_.validation[op.validation_case.value.id] = op.validation_case;
    return absl::OkStatus();
  }

  absl::Status operator()(const SetSkillTrigger& op) {
    const auto it = state_.skills.find(op.skill);
    if (it == state_.skills.end()) return absl::NotFoundError("no such skill");
    RETURN_IF_ERROR(ValidateTrigger(op.trigger));
    it->second.trigger = op.trigger;
    return absl::OkStatus();
  }

  absl::Status operator()(const RemoveItem& op) {
    size_t removed = 0;
    if (op.kind == "knowledge") {
      removed = EraseKnowledge(op.key) ? 1 : 0;
    } else if (op.kind == "skill") {
      removed = state_.skills.erase(op.key);
    } else if (op.kind == "tool") {
      removed = state_.tool_notes.erase(op.key);
    } else if (op.kind == "validation") {
      removed = state_.validation.erase(op.key);
    } else if (op.kind == "prompt") {
      const auto it = FindPrompt(op.key);
      if (it != state_.prompt.end()) {
        state_.prompt.erase(it);
        removed = 1;
      }
    } else {
      return absl::InvalidArgumentError(
          "kind is none of knowledge, skill, prompt, tool, validation");
    }
    return removed == 1 ? absl::OkStatus() : absl::NotFoundError("not there");
  }

 private:
  bool EraseKnowledge(const std::string& key) {
    const auto it = state_.knowledge.find(key);
    if (it == state_.knowledge.end()) return false;
    questions_.Remove(it->second);
    state_.knowledge.erase(it);
    return true;
  }

  std::vector<PromptLine>::iterator FindPrompt(const std::string& id) {
    return std::find_if(state_.prompt.begin(), state_.prompt.end(),
                        [&](const PromptLine& line) { return line.id == id; });
  }

  ArtifactState& state_;
  QuestionIndex questions_;
};

// Whether one operation would change nothing but provenance, trigger or worked example.
struct Holds {
  const ArtifactState& state;

  bool operator()(const PutKnowledge& op) const {
    const auto it = state.knowledge.find(op.entry.key);
    return it != state.knowledge.end() && it->second.answer == op.entry.answer &&
           it->second.rule == op.entry.rule;
  }
  bool operator()(const PutSkill& op) const {
    const auto it = state.skills.find(op.skill.name);
    return it != state.skills.end() && it->second.instructions == op.skill.instructions;
  }
  bool operator()(const PutPromptLine& op) const {
    return std::any_of(state.prompt.begin(), state.prompt.end(), [&](const PromptLine& line) {
      return line.id == op.line.id && line.text == op.line.text;
    });
  }
  bool operator()(const PutToolNote& op) const {
    const auto it = state.tool_notes.find(op.note.tool);
    return it != state.tool_notes.end() && it->second.text == op.note.text;
  }
  bool operator()(const PutValidationCase&) const { return true; }
  bool operator()(const SetSkillTrigger&) const { return false; }
  bool operator()(const RemoveItem&) const { return false; }
};

struct OpName {
  std::string operator()(const PutKnowledge& op) { return Of("put_knowledge", op.entry.key); }
  std::string operator()(const PutSkill& op) { return Of("put_skill", op.skill.name); }
  std::string operator()(const PutPromptLine& op) { return Of("put_prompt_line", op.line.id); }
  std::string operator()(const PutToolNote& op) { return Of("put_tool_note", op.note.tool); }
  std::string operator()(const PutValidationCase& op) {
    return Of("put_validation_case", op.validation_case.value.id);
  }
  std::string operator()(const SetSkillTrigger& op) { return Of("set_skill_trigger", op.skill); }
  std::string operator()(const RemoveItem& op) {
    return Of(absl::StrCat("remove ", absl::CHexEscape(op.kind)), op.key);
  }
  static std::string Of(absl::string_view op, absl::string_view key) {
    return absl::StrCat(op, " ", Quoted(key));
  }
};

}  // namespace

absl::StatusOr<ArtifactState> Apply(const ArtifactState& state, const Patch& patch) {
  ArtifactState out = state;
  Applier applier(out);
  for (size_t i = 0; i < patch.ops.size(); ++i) {
    const absl::Status status = std::visit(applier, patch.ops[i]);
    if (!status.ok()) {
      return Annotate(status,
                      absl::StrCat("op ", i, " (", std::visit(OpName(), patch.ops[i]), ")"));
    }
  }
  return out;
}

bool StateHolds(const ArtifactState& state, const Patch& patch) {
  const Holds holds{state};
  bool any = false;
  for (const PatchOp& op : patch.ops) {
    if (std::holds_alternative<PutValidationCase>(op)) continue;
    if (!std::visit(holds, op)) return false;
    any = true;
  }
  return any;
}

std::string NormaliseText(absl::string_view text) {
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte >= 0x80 || absl::ascii_isalnum(byte)) {
      out.push_back(absl::ascii_tolower(byte));
    } else if (!out.empty() && out.back() != ' ') {
      out.push_back(' ');
    }
  }
  if (!out.empty() && out.back() == ' ') out.pop_back();
  return out;
}

}  // namespace evolora
