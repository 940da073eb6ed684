#include "evolora/state/artifact_state.h"

#include <string>
#include <vector>

#include "evolora/core/sha256.h"
#include "support/mutate.h"
#include "support/status_matchers.h"

namespace evolora {
namespace {

using ::evolora::testing::IsOk;
using ::evolora::testing::StatusIs;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

const Provenance kOperator{"operator", ""};

KnowledgeEntry Fact(std::string key, std::string question, std::string answer) {
  KnowledgeEntry entry;
  entry.key = std::move(key);
  entry.question = std::move(question);
  entry.answer = std::move(answer);
  entry.provenance = kOperator;
  return entry;
}

Skill MakeSkill(std::string name) {
  Skill skill;
  skill.name = std::move(name);
  skill.trigger.any_of = {"metres"};
  skill.instructions = "Convert first.";
  skill.provenance = kOperator;
  return skill;
}

ValidationCase MakeValidation(std::string id) {
  Case c;
  c.id = std::move(id);
  c.cluster = "c";
  c.split = Split::kQuery;
  c.messages = {{"user", "q"}};
  c.verify.any_of = {"a"};
  return {c, "failure"};
}

ArtifactState Sample() {
  Patch patch;
  patch.ops = {PutPromptLine{{"brief", "Be brief.", kOperator}},
               PutPromptLine{{"a-first", "Be kind.", kOperator}},
               PutKnowledge{Fact("k1", "Who is X?", "Y \xC3\xA9")},
               PutKnowledge{Fact("k0", "Who is Z?", "W")},
               PutSkill{MakeSkill("units")},
               PutToolNote{{"get_weather", "city is a name", kOperator}},
               PutValidationCase{MakeValidation("v1")}};
  auto state = Apply({}, patch);
  EXPECT_THAT(state, IsOk());
  return *state;
}

absl::StatusOr<ArtifactState> ApplyOp(const ArtifactState& state, PatchOp op) {
  Patch patch;
  patch.ops = {std::move(op)};
  return Apply(state, patch);
}

TEST(Apply, ReturnsANewStateAndLeavesTheOldOne) {
  const ArtifactState old = Sample();
  const StateDocuments before = ToDocuments(old);
  ASSERT_OK_AND_ASSIGN(const ArtifactState changed,
                       ApplyOp(old, PutPromptLine{{"brief", "Be very brief.", kOperator}}));
  EXPECT_EQ(ToDocuments(old), before);
  ASSERT_EQ(changed.prompt.size(), 2u);
  EXPECT_EQ(changed.prompt[0].text, "Be very brief.");  // keeps its place
}

TEST(StateHolds, ComparesWhatARequestIsGivenNotWhereItCameFrom) {
  const ArtifactState state = Sample();
  const auto holds = [&](PatchOp op) {
    Patch patch;
    patch.ops = {std::move(op)};
    return StateHolds(state, patch);
  };
  KnowledgeEntry fact = state.knowledge.at("k1");
  fact.provenance = {"feedback", "episode"};
  EXPECT_TRUE(holds(PutKnowledge{fact}));
  fact.answer = "somebody else";
  EXPECT_FALSE(holds(PutKnowledge{fact}));
  Skill skill = MakeSkill("units");
  skill.trigger.any_of = {"miles"};
  skill.example_request = "2 metres?";
  EXPECT_TRUE(holds(PutSkill{skill}));
  skill.instructions = "Guess.";
  EXPECT_FALSE(holds(PutSkill{skill}));
  EXPECT_TRUE(holds(PutPromptLine{{"brief", "Be brief.", {}}}));
  EXPECT_FALSE(holds(PutPromptLine{{"brief", "Be long.", {}}}));
  EXPECT_TRUE(holds(PutToolNote{{"get_weather", "city is a name", {}}}));
  EXPECT_FALSE(holds(SetSkillTrigger{"units", {}}));
  EXPECT_FALSE(holds(RemoveItem{"knowledge", "k1"}));
  EXPECT_FALSE(holds(PutValidationCase{MakeValidation("v1")})) << "no request is given a case";
}

TEST(Apply, AnErrorNamesTheOperation) {
  struct Row {
    const char* name;
    PatchOp op;
    absl::StatusCode code;
    std::vector<const char*> words;
  };
  KnowledgeEntry revoking = Fact("k9", "Who?", "A");
  revoking.revokes = {"nobody"};
  KnowledgeEntry backwards = Fact("k9", "Who?", "A");
  backwards.valid_from_unix_ms = 5;
  backwards.valid_until_unix_ms = 5;
  KnowledgeEntry sourceless = Fact("k9", "Who?", "A");
  sourceless.provenance = {};
  Skill upper = MakeSkill("Units");
  Skill bad_trigger = MakeSkill("x");
  bad_trigger.trigger.regex = "(";
  Skill half_example = MakeSkill("x");
  half_example.example_request = "q";
  const std::vector<Row> rows = {
      {"revokes nothing",
       PutKnowledge{revoking},
       absl::StatusCode::kNotFound,
       {"op 0 (put_knowledge 'k9')", "'nobody'"}},
      {"ends before it starts",
       PutKnowledge{backwards},
       absl::StatusCode::kInvalidArgument,
       {"until 5"}},
      {"no provenance",
       PutKnowledge{sourceless},
       absl::StatusCode::kInvalidArgument,
       {"provenance"}},
      {"empty question",
       PutKnowledge{Fact("k9", " ", "A")},
       absl::StatusCode::kInvalidArgument,
       {"question is empty"}},
      {"empty key", PutKnowledge{Fact("", "q", "A")}, absl::StatusCode::kInvalidArgument, {"key"}},
      {"newline in key",
       PutKnowledge{Fact("a\nb", "q", "A")},
       absl::StatusCode::kInvalidArgument,
       {"a\\nb"}},
      {"long answer",
       PutKnowledge{Fact("k9", "q", std::string(kMaxItemBytes + 1, 'x'))},
       absl::StatusCode::kInvalidArgument,
       {"answer has 65537"}},
      {"skill name", PutSkill{upper}, absl::StatusCode::kInvalidArgument, {"Units", "[a-z0-9-]"}},
      {"skill trigger", PutSkill{bad_trigger}, absl::StatusCode::kInvalidArgument, {"put_skill"}},
      {"half an example", PutSkill{half_example}, absl::StatusCode::kInvalidArgument, {"example"}},
      {"trigger of no skill",
       SetSkillTrigger{"nope", {}},
       absl::StatusCode::kNotFound,
       {"set_skill_trigger 'nope'"}},
      {"remove unknown",
       RemoveItem{"skill", "nope"},
       absl::StatusCode::kNotFound,
       {"remove skill 'nope'"}},
      {"remove bad kind", RemoveItem{"thing", "x"}, absl::StatusCode::kInvalidArgument, {"kind"}},
  };
  for (const Row& row : rows) {
    SCOPED_TRACE(row.name);
    for (const char* word : row.words) {
      EXPECT_THAT(ApplyOp(Sample(), row.op), StatusIs(row.code, HasSubstr(word)));
    }
  }
}

TEST(Apply, AnotherAnswerToTheSameQuestionIsAmbiguous) {
  const ArtifactState state = Sample();
  const KnowledgeEntry other = Fact("k2", "  who is x", "Q");
  EXPECT_THAT(ApplyOp(state, PutKnowledge{other}),
              StatusIs(absl::StatusCode::kFailedPrecondition,
                       AllOf(HasSubstr("ambiguous"), HasSubstr("'k1'"), HasSubstr("'Q'"))));
  KnowledgeEntry revoking = other;
  revoking.revokes = {"k1"};
  ASSERT_OK_AND_ASSIGN(const ArtifactState replaced, ApplyOp(state, PutKnowledge{revoking}));
  EXPECT_EQ(replaced.knowledge.count("k1"), 0u);
  EXPECT_EQ(replaced.knowledge.count("k2"), 1u);
  EXPECT_THAT(ApplyOp(state, PutKnowledge{Fact("k2", "Who is X", "y \xC3\xA9!")}), IsOk());
  EXPECT_THAT(ApplyOp(state, PutKnowledge{Fact("k1", "Who is X?", "other")}), IsOk());
}

TEST(Apply, FactsValidAtDifferentTimesAreNotAmbiguous) {
  KnowledgeEntry old_fact = Fact("old", "Who is mayor?", "A");
  old_fact.valid_until_unix_ms = 100;
  KnowledgeEntry new_fact = Fact("new", "Who is mayor?", "B");
  new_fact.valid_from_unix_ms = 100;
  ASSERT_OK_AND_ASSIGN(const ArtifactState state, ApplyOp({}, PutKnowledge{old_fact}));
  EXPECT_THAT(ApplyOp(state, PutKnowledge{new_fact}), IsOk());
  new_fact.valid_from_unix_ms = 99;
  EXPECT_THAT(ApplyOp(state, PutKnowledge{new_fact}),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("ambiguous")));
}

TEST(Apply, ManyFactsTakeTimeInProportion) {
  Patch patch;
  for (int i = 0; i < 20000; ++i) {
    const std::string n = std::to_string(i);
    patch.ops.push_back(PutKnowledge{Fact("k" + n, "What is number " + n + "?", n)});
  }
  ASSERT_OK_AND_ASSIGN(const ArtifactState state, Apply({}, patch));
  EXPECT_EQ(state.knowledge.size(), 20000u);
}

TEST(Documents, ComeBackEqualAndAreCanonical) {
  const ArtifactState state = Sample();
  const StateDocuments documents = ToDocuments(state);
  EXPECT_EQ(documents.prompt.find("{\"format\":\"evolora-prompt-1\""), 0u);
  EXPECT_LT(documents.prompt.find("brief"), documents.prompt.find("a-first"));
  EXPECT_LT(documents.knowledge.find("k0"), documents.knowledge.find("k1"));
  ASSERT_OK_AND_ASSIGN(const ArtifactState back, FromDocuments(documents));
  EXPECT_EQ(ToDocuments(back), documents);
  EXPECT_TRUE(Diff(state, back).empty());
  EXPECT_EQ(DocumentDigests(documents).tools, Sha256Hex(documents.tools));
  ASSERT_OK_AND_ASSIGN(const ArtifactState empty, FromDocuments(ToDocuments({})));
  EXPECT_TRUE(empty.knowledge.empty());
}

TEST(Documents, KeepTheHistoryOfRevocations) {
  KnowledgeEntry entry = Fact("k2", "Who is X?", "Q");
  entry.revokes = {"k1"};
  ASSERT_OK_AND_ASSIGN(const ArtifactState state, ApplyOp(Sample(), PutKnowledge{entry}));
  ASSERT_OK_AND_ASSIGN(const ArtifactState back, FromDocuments(ToDocuments(state)));
  EXPECT_THAT(back.knowledge.at("k2").revokes, ElementsAre("k1"));
}

std::string Replaced(std::string text, const std::string& from, const std::string& to) {
  const size_t at = text.find(from);
  EXPECT_NE(at, std::string::npos) << from;
  return text.replace(at, from.size(), to);
}

TEST(Documents, AnythingElseIsRefused) {
  const StateDocuments good = ToDocuments(Sample());
  StateDocuments white = good, format = good, unknown = good, order = good, twice = good,
                 broken = good;
  white.prompt += " ";
  format.tools = Replaced(good.tools, "evolora-tools-1", "evolora-tools-2");
  unknown.prompt = Replaced(good.prompt, "{", "{\"extra\":1,");
  order.knowledge = Replaced(Replaced(good.knowledge, "\"k0\"", "\"k7\""), "\"k1\"", "\"k2\"");
  twice.knowledge = Replaced(good.knowledge, "\"k0\"", "\"k1\"");
  broken.validation.pop_back();
  for (const auto& [documents, words] : {std::pair{white, "prompt document"},
                                         {format, "evolora-tools-2"},
                                         {unknown, "extra"},
                                         {order, "knowledge document: not canonical"},
                                         {twice, "knowledge document: not canonical"},
                                         {broken, "validation document"}}) {
    EXPECT_THAT(FromDocuments(documents),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(words)));
  }
}

TEST(Documents, MutatedDocumentsAreReadOrRefused) {
  const StateDocuments good = ToDocuments(Sample());
  const auto result =
      testing::RunMutations({good.knowledge, good.tools}, 2000, 3, [&](const std::string& text) {
        StateDocuments documents = good;
        (text.find("knowledge") != std::string::npos ? documents.knowledge : documents.tools) =
            text;
        return FromDocuments(documents).status();
      });
  EXPECT_GT(result.num_refused, 0);
}

TEST(Diff, SaysInWordsWhatChanged) {
  const ArtifactState before = Sample();
  Skill skill = MakeSkill("units");
  skill.trigger.any_of = {"feet"};
  skill.instructions = "Convert last.";
  Patch patch;
  patch.ops = {PutSkill{skill},
               RemoveItem{"knowledge", "k0"},
               RemoveItem{"tool", "get_weather"},
               PutKnowledge{Fact("k5", "New?", "Yes")},
               RemoveItem{"prompt", "brief"},
               PutPromptLine{{"brief", "Be brief.", kOperator}}};
  ASSERT_OK_AND_ASSIGN(const ArtifactState after, Apply(before, patch));
  EXPECT_THAT(Diff(before, after), ElementsAre("removed knowledge 'k0'", "added knowledge 'k5'",
                                               "changed prompt: order of lines",
                                               "changed skill 'units': instructions, trigger",
                                               "removed tool 'get_weather'"));
  EXPECT_TRUE(Diff(before, before).empty());
}

TEST(NormaliseText, FoldsCaseSpaceAndPunctuation) {
  EXPECT_EQ(NormaliseText("  Who -- is\tX?! "), "who is x");
  EXPECT_EQ(NormaliseText("caf\xC3\xA9."), "caf\xC3\xA9");
  EXPECT_EQ(NormaliseText("?!"), "");
}

}  // namespace
}  // namespace evolora
