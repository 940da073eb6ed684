#include <functional>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "evolora/core/json.h"
#include "evolora/core/sha256.h"
#include "evolora/core/status_macros.h"
#include "evolora/state/artifact_state.h"

namespace evolora {
namespace {

constexpr char kPromptFormat[] = "evolora-prompt-1";
constexpr char kKnowledgeFormat[] = "evolora-knowledge-1";
constexpr char kToolsFormat[] = "evolora-tools-1";
constexpr char kValidationFormat[] = "evolora-validation-1";
constexpr JsonLimits kLimits{.max_bytes = size_t{1} << 30, .max_depth = 64};

template <typename T>
Json MapToJson(const std::map<std::string, T>& items, Json (*to_json)(const T&)) {
  Json out = Json::array();
  for (const auto& [key, item] : items) out.push_back(to_json(item));
  return out;
}

// Turns the items of one array into operations of a patch, so that documents pass the same checks.
template <typename Op, typename T>
absl::Status AddOps(const Json& items, absl::StatusOr<T> (*from_json)(const Json&),
                    const std::string& path, Patch& patch) {
  for (size_t i = 0; i < items.size(); ++i) {
    absl::StatusOr<T> item = from_json(items[i]);
    if (!item.ok()) return Annotate(item.status(), absl::StrCat(path, "[", i, "]"));
    patch.ops.push_back(Op{*std::move(item)});
  }
  return absl::OkStatus();
}

absl::Status CheckFormat(JsonFields& fields, absl::string_view format) {
  const std::string found = fields.String("format");
  if (fields.status().ok() && found != format) {
    fields.Fail("format", absl::StrCat("'", found, "' instead of '", format, "'"));
  }
  return fields.Done();
}

// The revoked entries are gone by the time a document is written, so `revokes` is history here.
void ForgetRevocations(Patch& patch, std::map<std::string, std::vector<std::string>>& kept) {
  for (PatchOp& op : patch.ops) {
    auto* put = std::get_if<PutKnowledge>(&op);
    if (put != nullptr) kept[put->entry.key] = std::exchange(put->entry.revokes, {});
  }
}

absl::Status AddDocument(const char* name, const std::string& text,
                         const std::function<absl::Status(const Json&)>& add) {
  absl::StatusOr<Json> json = ParseJson(text, kLimits);
  if (!json.ok()) {
    return absl::InvalidArgumentError(absl::StrCat(name, " document: ", json.status().message()));
  }
  return Annotate(add(*json), absl::StrCat(name, " document"));
}

absl::Status AddAll(const StateDocuments& documents, Patch& patch) {
  RETURN_IF_ERROR(AddDocument("prompt", documents.prompt, [&](const Json& json) -> absl::Status {
    JsonFields fields(json, "prompt");
    const Json& lines = fields.Array("lines");
    RETURN_IF_ERROR(CheckFormat(fields, kPromptFormat));
    return AddOps<PutPromptLine>(lines, PromptLineFromJson, "lines", patch);
  }));
  RETURN_IF_ERROR(
      AddDocument("knowledge", documents.knowledge, [&](const Json& json) -> absl::Status {
        JsonFields fields(json, "knowledge");
        const Json& entries = fields.Array("entries");
        RETURN_IF_ERROR(CheckFormat(fields, kKnowledgeFormat));
        return AddOps<PutKnowledge>(entries, KnowledgeFromJson, "entries", patch);
      }));
  RETURN_IF_ERROR(AddDocument("tools", documents.tools, [&](const Json& json) -> absl::Status {
    JsonFields fields(json, "tools");
    const Json& notes = fields.Array("notes");
    const Json& skills = fields.Array("skills");
    RETURN_IF_ERROR(CheckFormat(fields, kToolsFormat));
    RETURN_IF_ERROR(AddOps<PutToolNote>(notes, ToolNoteFromJson, "notes", patch));
    return AddOps<PutSkill>(skills, SkillFromJson, "skills", patch);
  }));
  return AddDocument("validation", documents.validation, [&](const Json& json) -> absl::Status {
    JsonFields fields(json, "validation");
    const Json& cases = fields.Array("cases");
    RETURN_IF_ERROR(CheckFormat(fields, kValidationFormat));
    return AddOps<PutValidationCase>(cases, ValidationCaseFromJson, "cases", patch);
  });
}

}  // namespace

StateDocuments ToDocuments(const ArtifactState& state) {
  Json lines = Json::array();
  for (const PromptLine& line : state.prompt) lines.push_back(PromptLineToJson(line));
  return {
      .prompt = CanonicalJson({{"format", kPromptFormat}, {"lines", std::move(lines)}}),
      .knowledge = CanonicalJson(
          {{"format", kKnowledgeFormat}, {"entries", MapToJson(state.knowledge, KnowledgeToJson)}}),
      .tools = CanonicalJson({{"format", kToolsFormat},
                              {"notes", MapToJson(state.tool_notes, ToolNoteToJson)},
                              {"skills", MapToJson(state.skills, SkillToJson)}}),
      .validation = CanonicalJson({{"format", kValidationFormat},
                                   {"cases", MapToJson(state.validation, ValidationCaseToJson)}}),
  };
}

StateDocuments DocumentDigests(const StateDocuments& documents) {
  return {.prompt = Sha256Hex(documents.prompt),
          .knowledge = Sha256Hex(documents.knowledge),
          .tools = Sha256Hex(documents.tools),
          .validation = Sha256Hex(documents.validation)};
}

absl::StatusOr<ArtifactState> FromDocuments(const StateDocuments& documents) {
  Patch patch;
  RETURN_IF_ERROR(AddAll(documents, patch));
  std::map<std::string, std::vector<std::string>> revokes;
  ForgetRevocations(patch, revokes);
  absl::StatusOr<ArtifactState> state = Apply({}, patch);
  if (!state.ok()) {
    return absl::InvalidArgumentError(absl::StrCat("state documents: ", state.status().message()));
  }
  for (auto& [key, keys] : revokes) state->knowledge[key].revokes = std::move(keys);
  // Equal text both ways also proves the order, and that no item stood twice.
  const StateDocuments back = ToDocuments(*state);
  using Document = std::pair<const char*, std::string StateDocuments::*>;
  for (const auto& [name, text] : {Document{"prompt", &StateDocuments::prompt},
                                   Document{"knowledge", &StateDocuments::knowledge},
                                   Document{"tools", &StateDocuments::tools},
                                   Document{"validation", &StateDocuments::validation}}) {
    if (back.*text != documents.*text) {
      return absl::InvalidArgumentError(absl::StrCat(
          name, " document: not canonical (order, duplicate item, white space or number form)"));
    }
  }
  return state;
}

}  // namespace evolora
