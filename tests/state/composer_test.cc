#include "evolora/state/composer.h"

#include <string>
#include <vector>

#include "support/status_matchers.h"

namespace evolora {
namespace {

using ::evolora::testing::IsOk;
using ::evolora::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

using Messages = std::vector<Message>;

KnowledgeEntry Fact(const std::string& key, const std::string& question,
                    const std::string& answer) {
  KnowledgeEntry entry;
  entry.key = key;
  entry.question = question;
  entry.answer = answer;
  return entry;
}

Skill UnitSkill() {
  Skill skill;
  skill.name = "units";
  skill.trigger.any_of = {"metres"};
  skill.instructions = "Convert to feet first.";
  skill.example_request = "2 metres?";
  skill.example_answer = "6.56";
  return skill;
}

ArtifactState Sample() {
  ArtifactState state;
  state.prompt = {{"brief", "Be brief.", {}}};
  state.knowledge["epas"] = Fact("epas", "Which family does Epaspidoceras belong to?", "Noctuidae");
  state.knowledge["moth"] = Fact("moth", "Which family does Amphimallon belong to?", "Scarabs");
  state.skills["units"] = UnitSkill();
  state.tool_notes["get_weather"] = {"get_weather", "city is a name", {}};
  return state;
}

std::shared_ptr<const StateIndex> Index(ArtifactState state) {
  auto index = StateIndex::Build(std::move(state));
  EXPECT_THAT(index, IsOk());
  return *index;
}

Composed MustCompose(const ArtifactState& state, const Messages& messages,
                     const ComposeOptions& options = {}) {
  const auto composed = Compose(*Index(state), messages, options);
  EXPECT_THAT(composed, IsOk());
  return *composed;
}

TEST(Compose, ReturnsTheMessagesUnchangedWhenNothingApplies) {
  ArtifactState state = Sample();
  state.prompt.clear();
  const Messages messages = {
      {"system", " a \n"}, {"user", "Hi  there"}, {"assistant", ""}, {"user", "What is 2+2?"}};
  const Composed composed = MustCompose(state, messages);
  EXPECT_EQ(composed.messages, messages);
  EXPECT_THAT(composed.used, IsEmpty());
  EXPECT_EQ(composed.tokens_added, 0);
}

TEST(Compose, PromptLinesGoToTheSystemTurnWhichIsCreatedOnlyForText) {
  const Composed appended = MustCompose(Sample(), {{"system", "You are X."}, {"user", "Hi"}});
  EXPECT_EQ(appended.messages, (Messages{{"system", "You are X.\n\nBe brief."}, {"user", "Hi"}}));
  const Composed created = MustCompose(Sample(), {{"user", "Hi"}});
  EXPECT_EQ(created.messages, (Messages{{"system", "Be brief."}, {"user", "Hi"}}));
  EXPECT_THAT(created.used, ElementsAre("prompt:brief"));
  ArtifactState state = Sample();
  state.prompt.clear();
  const Composed fact =
      MustCompose(state, {{"user", "Which family does Epaspidoceras belong to?"}});
  EXPECT_EQ(fact.messages.front().role, "user");
}

TEST(Compose, KnowledgeStandsAsEarlierTurnsRightBeforeTheLastUserTurn) {
  const std::string question = "Tell me: which family does Epaspidoceras belong to?";
  const Composed composed = MustCompose(
      Sample(), {{"system", "S"}, {"user", "Hi"}, {"assistant", "Hello"}, {"user", question}});
  EXPECT_EQ(composed.messages, (Messages{{"system", "S\n\nBe brief."},
                                         {"user", "Hi"},
                                         {"assistant", "Hello"},
                                         {"user", "Which family does Epaspidoceras belong to?"},
                                         {"assistant", "Noctuidae"},
                                         {"user", question}}));
  EXPECT_THAT(composed.used, ElementsAre("prompt:brief", "knowledge:epas"));
}

TEST(Compose, SkillsAndToolNotesApplyByTriggerAndByName) {
  const Composed composed = MustCompose(
      Sample(), {{"system", "Tools: get_weather(city)"}, {"user", "How far is 3 METRES?"}});
  EXPECT_EQ(composed.messages,
            (Messages{{"system",
                       "Tools: get_weather(city)\n\nBe brief.\n\nTool get_weather: city is a "
                       "name\n\nConvert to feet first."},
                      {"user", "2 metres?"},
                      {"assistant", "6.56"},
                      {"user", "How far is 3 METRES?"}}));
  EXPECT_THAT(composed.used, ElementsAre("prompt:brief", "tool:get_weather", "skill:units"));
  const Composed other = MustCompose(Sample(), {{"user", "get_weather_v2 and xget_weather"}});
  EXPECT_THAT(other.used, ElementsAre("prompt:brief"));
}

// Tokens are bytes here, so that budgets can be read off.
ComposeOptions ByteBudget(int64_t budget) {
  ComposeOptions options;
  options.token_budget = budget;
  options.count_tokens = [](absl::Span<const Message> messages) -> absl::StatusOr<int64_t> {
    int64_t bytes = 0;
    for (const Message& m : messages) bytes += static_cast<int64_t>(m.content.size());
    return bytes;
  };
  return options;
}

TEST(Compose, ItemsThatDoNotFitTheBudgetAreLeftOutAndTheNextIsTried) {
  ArtifactState state = Sample();
  state.prompt[0].text = std::string(100, 'x');
  const Messages messages = {{"user", "Which family does Epaspidoceras belong to?"}};
  const Composed composed = MustCompose(state, messages, ByteBudget(60));
  EXPECT_THAT(composed.used, ElementsAre("knowledge:epas"));
  EXPECT_THAT(composed.left_out, ElementsAre("prompt:brief"));
  EXPECT_EQ(composed.tokens_added, 51);
  const Composed exact = MustCompose(state, messages, ByteBudget(51));
  EXPECT_EQ(exact.tokens_added, 51);
  const Composed none = MustCompose(state, messages, ByteBudget(50));
  EXPECT_EQ(none.messages, messages);
  EXPECT_EQ(none.tokens_added, 0);
  EXPECT_EQ(none.left_out.size(), 2u);
}

TEST(Compose, ForcedItemsStayWhateverTriggerRetrievalAndBudgetSay) {
  ComposeOptions options = ByteBudget(0);
  options.forced.knowledge = {Fact("epas", "Family of Epaspidoceras?", "Moths")};
  options.forced.skills = {UnitSkill()};
  options.forced.hint = "Think of moths.";
  const Composed composed =
      MustCompose(Sample(), {{"user", "Which family does Epaspidoceras belong to?"}}, options);
  EXPECT_THAT(composed.used, ElementsAre("skill:units", "knowledge:epas", "hint"));
  EXPECT_EQ(composed.messages, (Messages{{"system", "Convert to feet first.\n\nThink of moths."},
                                         {"user", "2 metres?"},
                                         {"assistant", "6.56"},
                                         {"user", "Family of Epaspidoceras?"},
                                         {"assistant", "Moths"},
                                         {"user", "Which family does Epaspidoceras belong to?"}}));
  EXPECT_GT(composed.tokens_added, 0);
}

TEST(Compose, DisabledItemsAreLeftOut) {
  ComposeOptions options;
  options.disabled = {"prompt:brief", "knowledge:epas"};
  const Messages messages = {{"user", "Which family does Epaspidoceras belong to?"}};
  const Composed composed = MustCompose(Sample(), messages, options);
  EXPECT_EQ(composed.messages, messages);
}

TEST(Compose, TheBestFactStandsNextToTheQuestion) {
  ArtifactState state;
  state.knowledge["a"] = Fact("a", "Which family of moths does Epaspidoceras belong to?", "far");
  state.knowledge["b"] = Fact("b", "Which family does Epaspidoceras belong to?", "near");
  const Composed composed =
      MustCompose(state, {{"user", "Which family does Epaspidoceras belong to?"}});
  ASSERT_EQ(composed.messages.size(), 5u);
  EXPECT_EQ(composed.messages[3].content, "near");
  EXPECT_THAT(composed.used, ElementsAre("knowledge:b", "knowledge:a"));
}

TEST(Compose, ARuleThatSeveralEntriesShareIsSaidOnce) {
  ArtifactState state;
  state.knowledge["a"] = Fact("a", "Which family of moths does Epaspidoceras belong to?", "far");
  state.knowledge["b"] = Fact("b", "Which family does Epaspidoceras belong to?", "near");
  for (auto& [key, entry] : state.knowledge) entry.rule = "Name the family only.";
  const Composed composed =
      MustCompose(state, {{"user", "Which family does Epaspidoceras belong to?"}});
  ASSERT_EQ(composed.messages.size(), 6u);
  EXPECT_EQ(composed.messages[0], (Message{"system", "Name the family only."}));
}

TEST(ItemIds, AreTheIdsThatEpisodesName) {
  ComposeOptions options;
  options.forced = {.prompt = {{"brief", "Be brief.", {}}},
                    .tool_notes = {{"get_weather", "city is a name", {}}},
                    .skills = {UnitSkill()},
                    .knowledge = {Fact("epas", "Family of Epaspidoceras?", "Moths")}};
  const Composed composed = MustCompose(ArtifactState(), {{"user", "Hi"}}, options);
  EXPECT_EQ(ItemIds(options.forced), composed.used);
}

TEST(Compose, ErrorsOfTheCounterComeThrough) {
  ComposeOptions options;
  options.count_tokens = [](absl::Span<const Message>) -> absl::StatusOr<int64_t> {
    return absl::InternalError("tokenizer");
  };
  EXPECT_THAT(Compose(*Index(Sample()), {Message{"user", "Hi"}}, options),
              StatusIs(absl::StatusCode::kInternal, HasSubstr("tokenizer")));
  EXPECT_THAT(Compose(*Index(Sample()), {}, {}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("messages")));
}

TEST(ForcedFromPatch, TakesWhatThePatchPutsIn) {
  Skill renamed = UnitSkill();
  renamed.name = "feet";
  Patch patch;
  patch.ops = {PutKnowledge{Fact("k", "q", "first")},
               PutKnowledge{Fact("k", "q", "second")},
               PutSkill{renamed},
               SetSkillTrigger{"feet", {}},
               SetSkillTrigger{"units", {}},
               RemoveItem{"knowledge", "epas"}};
  ASSERT_OK_AND_ASSIGN(const ForcedItems forced, ForcedFromPatch(Sample(), patch));
  ASSERT_EQ(forced.knowledge.size(), 1u);
  EXPECT_EQ(forced.knowledge[0].answer, "second");
  ASSERT_EQ(forced.skills.size(), 2u);
  EXPECT_EQ(forced.skills[1].name, "units");
  patch.ops = {SetSkillTrigger{"none", {}}};
  EXPECT_THAT(ForcedFromPatch(Sample(), patch),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("none")));
}

}  // namespace
}  // namespace evolora
