#include "evolora/core/patch.h"

#include <functional>
#include <string>
#include <vector>

#include "support/status_matchers.h"

namespace evolora {
namespace {

using ::testing::HasSubstr;
using testing::StatusIs;

constexpr char kPatch[] = R"({"summary": "all operations", "ops": [
  {"op": "put_knowledge", "entry": {"key": "capital", "question": "Capital?", "answer": "Paris",
    "rule": "r", "valid_from_unix_ms": 5, "valid_until_unix_ms": 9, "revokes": ["old"],
    "provenance": {"source": "feedback", "episode_id": "e1"}}},
  {"op": "put_skill", "skill": {"name": "unit-price", "description": "d", "trigger": {"all_of": ["price"]},
    "instructions": "i", "example_request": "q", "example_answer": "a",
    "provenance": {"source": "operator"}}},
  {"op": "put_prompt_line", "line": {"id": "l1", "text": "Be brief.", "provenance": {"source": "import"}}},
  {"op": "put_tool_note", "note": {"tool": "f", "text": "x is in metres", "provenance": {"source": "feedback"}}},
  {"op": "put_validation_case", "validation_case": {"reason": "ambiguous", "case": {
    "id": "q:1", "cluster": "geo", "split": "stream", "messages": [{"role": "user", "content": "x"}],
    "verify": {"type": "exact", "any_of": ["y"]}, "feedback": {"answer": "y"}}}},
  {"op": "set_skill_trigger", "skill": "unit-price", "trigger": {"any_of": ["price", "cost"]}},
  {"op": "remove", "kind": "knowledge", "key": "old"}]})";

Json Sample() { return *ParseJson(kPatch); }

TEST(Patch, RoundTripsEveryOperationInOrder) {
  ASSERT_OK_AND_ASSIGN(const Patch patch, PatchFromJson(Sample()));
  ASSERT_EQ(patch.ops.size(), std::variant_size_v<PatchOp>);
  for (size_t i = 0; i < patch.ops.size(); ++i) EXPECT_EQ(patch.ops[i].index(), i);
  EXPECT_EQ(PatchToJson(patch), Sample());
  const auto& entry = std::get<PutKnowledge>(patch.ops[0]).entry;
  EXPECT_EQ(entry.valid_until_unix_ms, 9);
  EXPECT_EQ(entry.provenance, (Provenance{"feedback", "e1"}));
  EXPECT_EQ(std::get<PutSkill>(patch.ops[1]).skill.trigger.all_of[0], "price");
}

TEST(Patch, OptionalPartsMayBeAbsent) {
  ASSERT_OK_AND_ASSIGN(const Json json, ParseJson(R"({"key":"k","question":"q","answer":"a",
      "provenance":{"source":"import"}})"));
  ASSERT_OK_AND_ASSIGN(const KnowledgeEntry entry, KnowledgeFromJson(json));
  EXPECT_EQ(entry.valid_until_unix_ms, 0);
  EXPECT_EQ(KnowledgeToJson(entry), json);
}

TEST(PatchFromJson, RefusesWrongOperationsAndNamesThem) {
  const std::vector<std::pair<std::function<void(Json&)>, std::string>> rows = {
      {[](Json& ops) { ops[0]["op"] = "drop_table"; }, "patch.ops[0]: op.op: unknown operation"},
      {[](Json& ops) { ops[6]["force"] = true; }, "patch.ops[6]: op.force: unknown field"},
      {[](Json& ops) { ops[6]["kind"] = "alias"; }, "patch.ops[6]: op.kind: must be knowledge"},
      {[](Json& ops) { ops[6]["key"] = ""; }, "op.key: empty"},
      {[](Json& ops) { ops[0]["entry"].erase("provenance"); }, "knowledge.provenance: missing"},
      {[](Json& ops) { ops[0]["entry"]["provenance"]["source"] = "web"; },
       "knowledge.provenance.source: must be feedback, import or operator"},
      {[](Json& ops) { ops[0]["entry"]["key"] = ""; }, "knowledge.key: empty"},
      {[](Json& ops) { ops[0]["entry"]["valid_until_unix_ms"] = 5; },
       "knowledge.valid_until_unix_ms: not after valid_from_unix_ms"},
      {[](Json& ops) { ops[0]["entry"]["valid_from_unix_ms"] = -1; }, "-1 is not in"},
      {[](Json& ops) { ops[1]["skill"]["name"] = "Unit Price"; }, "skill.name: must be 1 to 64"},
      {[](Json& ops) { ops[1]["skill"].erase("example_answer"); },
       "skill.example_request: a worked"},
      {[](Json& ops) { ops[1]["skill"]["trigger"]["regex"] = "("; },
       "skill.trigger: trigger.regex: "},
      {[](Json& ops) { ops[4]["validation_case"]["reason"] = "why not"; },
       "validation_case.reason: must be failure, verifier_disputed or ambiguous"},
      {[](Json& ops) { ops[4]["validation_case"]["case"].erase("verify"); },
       "patch.ops[4]: case q:1: case.verify: missing"},
      {[](Json& ops) { ops[5]["skill"] = "a/b"; }, "op.skill: must be 1 to 64"},
      {[](Json& ops) { ops[5] = 7; }, "patch.ops[5]: op: expected an object"},
  };
  for (const auto& [spoil, message] : rows) {
    SCOPED_TRACE(message);
    Json json = Sample();
    spoil(json["ops"]);
    EXPECT_THAT(PatchFromJson(json),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(message)));
  }
}

}  // namespace
}  // namespace evolora
