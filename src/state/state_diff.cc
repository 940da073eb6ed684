#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "evolora/core/json.h"
#include "evolora/state/artifact_state.h"

namespace evolora {
namespace {

using Items = std::map<std::string, Json>;  // key -> the item's JSON

template <typename T>
Items ToItems(const std::map<std::string, T>& items, Json (*to_json)(const T&)) {
  Items out;
  for (const auto& [key, item] : items) out[key] = to_json(item);
  return out;
}

Items PromptItems(const ArtifactState& state) {
  Items out;
  for (const PromptLine& line : state.prompt) out[line.id] = PromptLineToJson(line);
  return out;
}

// Names of the fields that differ, sorted.
std::string ChangedFields(const Json& before, const Json& after) {
  std::vector<std::string> fields;
  for (const auto& [field, value] : after.items()) {
    if (!before.contains(field) || before.at(field) != value) fields.push_back(field);
  }
  for (const auto& [field, value] : before.items()) {
    if (!after.contains(field)) fields.push_back(field);
  }
  std::sort(fields.begin(), fields.end());
  return absl::StrJoin(fields, ", ");
}

void DiffItems(const char* kind, const Items& before, const Items& after,
               std::vector<std::string>& out) {
  std::map<std::string, std::string> by_key;
  for (const auto& [key, item] : before) {
    const auto now = after.find(key);
    if (now == after.end()) {
      by_key[key] = absl::StrCat("removed ", kind, " '", key, "'");
    } else if (now->second != item) {
      by_key[key] =
          absl::StrCat("changed ", kind, " '", key, "': ", ChangedFields(item, now->second));
    }
  }
  for (const auto& [key, item] : after) {
    if (before.count(key) == 0) by_key[key] = absl::StrCat("added ", kind, " '", key, "'");
  }
  for (auto& [key, line] : by_key) out.push_back(std::move(line));
}

// The ids that both states have, in the order of `of`.
std::vector<std::string> SharedPromptOrder(const ArtifactState& of, const Items& other) {
  std::vector<std::string> ids;
  for (const PromptLine& line : of.prompt) {
    if (other.count(line.id) != 0) ids.push_back(line.id);
  }
  return ids;
}

}  // namespace

std::vector<std::string> Diff(const ArtifactState& before, const ArtifactState& after) {
  std::vector<std::string> out;
  DiffItems("knowledge", ToItems(before.knowledge, KnowledgeToJson),
            ToItems(after.knowledge, KnowledgeToJson), out);
  const Items prompt_before = PromptItems(before);
  const Items prompt_after = PromptItems(after);
  DiffItems("prompt", prompt_before, prompt_after, out);
  if (SharedPromptOrder(before, prompt_after) != SharedPromptOrder(after, prompt_before)) {
    out.push_back("changed prompt: order of lines");
  }
  DiffItems("skill", ToItems(before.skills, SkillToJson), ToItems(after.skills, SkillToJson), out);
  DiffItems("tool", ToItems(before.tool_notes, ToolNoteToJson),
            ToItems(after.tool_notes, ToolNoteToJson), out);
  DiffItems("validation", ToItems(before.validation, ValidationCaseToJson),
            ToItems(after.validation, ValidationCaseToJson), out);
  return out;
}

}  // namespace evolora
