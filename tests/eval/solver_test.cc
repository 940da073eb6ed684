#include "evolora/eval/solver.h"

#include <string>
#include <vector>

#include "evolora/eval/request_key.h"
#include "support/fake_model.h"
#include "support/status_matchers.h"

namespace evolora {
namespace {

using ::evolora::testing::FakeModel;
using ::evolora::testing::IsOk;
using ::evolora::testing::StatusIs;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

using Cases = std::vector<Case>;

Case MakeCase(const std::string& id, const std::string& question, const std::string& answer) {
  Case c;
  c.id = id;
  c.cluster = "c";
  c.messages = {{"user", question}};
  c.verify.type = VerifyType::kContains;
  c.verify.any_of = {answer};
  return c;
}

StateView View(ArtifactState state = {}) {
  auto index = StateIndex::Build(std::move(state));
  EXPECT_THAT(index, IsOk());
  return {"v1", *index, {}};
}

ArtifactState MothFact() {
  ArtifactState state;
  KnowledgeEntry& entry = state.knowledge["epas"];
  entry.key = "epas";
  entry.question = "Which family does Epaspidoceras belong to?";
  entry.answer = "Noctuidae";
  return state;
}

const char kMoth[] = "Tell me: which family does Epaspidoceras belong to?";

TEST(Solver, ComposesGeneratesAndVerifiesInOrder) {
  FakeModel model;
  model.Answer("Noctuidae", "It is Noctuidae.").Answer("2+2", "4");
  Solver solver(model, {});
  const Cases cases = {MakeCase("a", kMoth, "Noctuidae"), MakeCase("b", "2+2?", "4"),
                       MakeCase("c", "Hm?", "x")};
  ASSERT_OK_AND_ASSIGN(const auto without, solver.Solve(View(), cases));
  ASSERT_EQ(without.size(), 3u);
  EXPECT_FALSE(without[0].feedback.success);
  EXPECT_TRUE(without[1].feedback.success);
  ASSERT_OK_AND_ASSIGN(const auto with, solver.Solve(View(MothFact()), cases));
  EXPECT_TRUE(with[0].feedback.success);
  EXPECT_THAT(with[0].used, ElementsAre("knowledge:epas"));
  EXPECT_EQ(with[0].case_id, "a");
  EXPECT_EQ(with[0].version_id, "v1");
  EXPECT_EQ(with[0].output, "It is Noctuidae.");
  EXPECT_GT(with[0].compute.prompt_tokens, without[0].compute.prompt_tokens);
  EXPECT_EQ(with[0].id.size(), 64u);
  EXPECT_THAT(with[1].used, IsEmpty());
  ASSERT_OK_AND_ASSIGN(const auto again, solver.Solve(View(MothFact()), cases));
  EXPECT_EQ(again[0].id, with[0].id);
}

TEST(Solver, BatchesByItsOption) {
  FakeModel model;
  SolveOptions options;
  options.batch_size = 2;
  Solver solver(model, options);
  const Cases cases(5, MakeCase("a", "q", "x"));
  ASSERT_OK_AND_ASSIGN(const auto episodes, solver.Solve(View(), cases));
  EXPECT_EQ(episodes.size(), 5u);
  ASSERT_EQ(model.calls.size(), 3u);
  EXPECT_EQ(model.calls[2].size(), 1u);
}

TEST(Solver, TheFirstMatchingScopeRoutesElseTheBareBase) {
  FakeModel model;
  Solver solver(model, {});
  StateView view = View();
  Trigger metres, all;
  metres.any_of = {"metres"};
  all.all = true;
  view.routes = {{metres, "adapter-1"}};
  const Cases cases = {MakeCase("a", "3 metres?", "x"), MakeCase("b", "q", "x")};
  ASSERT_OK_AND_ASSIGN(const auto scoped, solver.Solve(view, cases));
  EXPECT_EQ(scoped[0].adapter, "adapter-1");
  EXPECT_EQ(scoped[1].adapter, "");
  EXPECT_EQ(model.calls[0][0].adapter, "adapter-1");
  view.routes.push_back({all, "adapter-2"});
  ASSERT_OK_AND_ASSIGN(const auto both, solver.Solve(view, cases));
  EXPECT_EQ(both[0].adapter, "adapter-1");
  EXPECT_EQ(both[1].adapter, "adapter-2");
}

TEST(Solver, RoutesByTheRequestNotByWhatTheStateAdds) {
  FakeModel model;
  Solver solver(model, {});
  ArtifactState state;
  state.prompt = {{"p", "Use metres.", {}}};
  StateView view = View(std::move(state));
  Trigger metres;
  metres.any_of = {"metres"};
  view.routes = {{metres, "adapter-1"}};
  ASSERT_OK_AND_ASSIGN(const auto episodes, solver.Solve(view, Cases{MakeCase("b", "q", "x")}));
  EXPECT_EQ(episodes[0].adapter, "");
}

TEST(Solver, ReplaysForceItemsAdaptersAndSampling) {
  FakeModel model;
  model.Add({{"Noctuidae"}, "Noctuidae", "*", 0.5});
  Solver solver(model, {});
  const Case moth = MakeCase("a", kMoth, "Noctuidae");
  std::vector<Replay> replays(64);
  for (size_t i = 0; i < replays.size(); ++i) {
    replays[i].value = &moth;
    replays[i].forced.hint = "It is Noctuidae";
    replays[i].sampling = Sampling{.temperature = 0.7, .seed = i};
    replays[i].forced_adapter = "x";
  }
  replays[63].forced = {};
  ASSERT_OK_AND_ASSIGN(const auto episodes, solver.SolveReplays(View(), replays));
  int64_t right = 0;
  for (const Episode& episode : episodes) right += episode.feedback.success;
  EXPECT_GT(right, 15);
  EXPECT_LT(right, 50);
  EXPECT_THAT(episodes[0].used, ElementsAre("hint"));
  EXPECT_EQ(episodes[0].adapter, "x");
  EXPECT_EQ(model.calls[0][1].sampling.seed, 1u);
  EXPECT_FALSE(episodes[63].feedback.success);
}

TEST(Solver, AnswerLengthFollowsTheVerifier) {
  FakeModel model;
  SolveOptions options;
  options.max_new_tokens[VerifyType::kContains] = 3;
  options.stop = {"\n"};
  options.count_flops = [](int64_t prompt, int64_t generated) {
    return static_cast<double>(prompt + 100 * generated);
  };
  model.Answer("q", "one two three four x");
  Solver solver(model, options);
  ASSERT_OK_AND_ASSIGN(const auto episodes, solver.Solve(View(), Cases{MakeCase("a", "q", "x")}));
  EXPECT_EQ(episodes[0].finish_reason, "length");
  EXPECT_EQ(episodes[0].compute.generated_tokens, 3);
  EXPECT_EQ(episodes[0].compute.flops, episodes[0].compute.prompt_tokens + 300.0);
  EXPECT_EQ(model.calls[0][0].stop, options.stop);
}

TEST(Solver, OutputThatIsNotUtf8BecomesReplacementCharacters) {
  FakeModel model;
  model.Answer("q", "x \xff");
  Solver solver(model, {});
  ASSERT_OK_AND_ASSIGN(const auto episodes, solver.Solve(View(), Cases{MakeCase("a", "q", "x")}));
  EXPECT_EQ(episodes[0].output, "x \xEF\xBF\xBD");
  EXPECT_TRUE(episodes[0].feedback.success);
}

TEST(Solver, ErrorsNameTheCaseOrComeThrough) {
  FakeModel model;
  Solver solver(model, {});
  Case empty = MakeCase("no-turns", "q", "x");
  empty.messages.clear();
  EXPECT_THAT(solver.Solve(View(), Cases{empty}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("case no-turns")));
  EXPECT_THAT(solver.Solve(StateView{"v9", nullptr, {}}, Cases{MakeCase("a", "q", "x")}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("'v9'")));
  model.fail_at_call = 0;
  EXPECT_THAT(solver.Solve(View(), Cases{MakeCase("a", "q", "x")}),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("call 0")));
}

TEST(RequestKey, DependsOnEverythingTheAnswerDependsOnAndNothingElse) {
  GenerateRequest base;
  base.messages = {{"user", "ab"}, {"assistant", "c"}};
  const std::string key = RequestKey(base);
  std::vector<GenerateRequest> others(9, base);
  others[0].messages = {{"user", "a"}, {"assistant", "bc"}};
  others[1].messages = {{"user", "ab"}};
  others[2].adapter = "x";
  others[3].max_new_tokens = 65;
  others[4].stop = {""};
  others[5].ids = {1, 2};
  others[6].sampling.temperature = 0.5;
  others[7].sampling = {.temperature = 0.5, .seed = 1};
  others[8].ignore_eos = true;
  std::vector<std::string> keys = {key};
  for (const GenerateRequest& other : others) keys.push_back(RequestKey(other));
  for (size_t i = 0; i < keys.size(); ++i) {
    for (size_t j = i + 1; j < keys.size(); ++j) EXPECT_NE(keys[i], keys[j]) << i << " " << j;
  }
  GenerateRequest greedy = base;
  greedy.sampling.seed = 9;
  greedy.sampling.top_k = 5;
  EXPECT_EQ(RequestKey(greedy), key);
  GenerateRequest with_ids = others[5];
  with_ids.messages.clear();
  EXPECT_EQ(RequestKey(with_ids), RequestKey(others[5]));
}

}  // namespace
}  // namespace evolora
