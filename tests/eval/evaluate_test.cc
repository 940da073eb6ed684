#include "evolora/eval/evaluate.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "support/fake_model.h"
#include "support/status_matchers.h"

namespace evolora {
namespace {

using ::evolora::testing::FakeModel;
using ::evolora::testing::IsOk;

class EvaluateTest : public ::testing::Test {
 protected:
  void SetUp() override {
    for (int i = 0; i < 7; ++i) {
      Case c;
      c.id = absl::StrCat("c", i);
      c.cluster = i < 3 ? "metres" : "other";
      c.messages = {{"user", absl::StrCat(i < 3 ? "metres " : "plain ", i)}};
      c.verify.type = VerifyType::kContains;
      c.verify.any_of = {"good"};
      cases_.push_back(c);
    }
    for (const Case& c : cases_) order_.push_back(&c);
    auto index = StateIndex::Build({});
    ASSERT_THAT(index, IsOk());
    Trigger scope;
    scope.any_of = {"metres"};
    champion_ = {"v1", *index, {}};
    candidate_ = {"v2", *index, {{scope, "adapter"}}};
    model_.Answer("metres 0", "good", "").Answer("metres", "good", "adapter");
    model_.Answer("plain 5", "good");
  }

  FakeModel model_;
  Solver solver_{model_, {}};
  std::vector<Case> cases_;
  std::vector<const Case*> order_;
  StateView champion_;
  StateView candidate_;
};

TEST_F(EvaluateTest, GoesInChunksAndComputesIdenticalRequestsOnce) {
  PairedEvaluation evaluation(solver_, champion_, candidate_, order_, 4);
  ASSERT_OK_AND_ASSIGN(const auto first, evaluation.Next());
  ASSERT_EQ(first.size(), 4u);
  EXPECT_EQ(model_.calls.size(), 1u);
  EXPECT_EQ(model_.calls[0].size(), 7u);  // three pairs and one shared request
  EXPECT_FALSE(evaluation.done());
  EXPECT_FALSE(first[1].identical_request);
  EXPECT_FALSE(first[1].champion.feedback.success);
  EXPECT_TRUE(first[1].candidate.feedback.success);
  EXPECT_EQ(first[1].candidate.adapter, "adapter");
  EXPECT_TRUE(first[3].identical_request);
  EXPECT_EQ(first[3].champion.output, first[3].candidate.output);
  EXPECT_EQ(first[3].champion.version_id, "v1");
  EXPECT_EQ(first[3].candidate.version_id, "v2");
  ASSERT_OK_AND_ASSIGN(const auto second, evaluation.Next());
  EXPECT_EQ(second.size(), 3u);
  EXPECT_TRUE(evaluation.done());
  ASSERT_OK_AND_ASSIGN(const auto none, evaluation.Next());
  EXPECT_TRUE(none.empty());
}

TEST_F(EvaluateTest, AFailedChunkMayBeAskedForAgain) {
  PairedEvaluation evaluation(solver_, champion_, candidate_, order_, 4);
  model_.fail_at_call = 0;
  EXPECT_FALSE(evaluation.Next().ok());
  ASSERT_OK_AND_ASSIGN(const auto first, evaluation.Next());
  EXPECT_EQ(first[0].case_id, "c0");
}

TEST_F(EvaluateTest, SummariesCountPairsPerCluster) {
  PairedEvaluation evaluation(solver_, champion_, candidate_, order_, 100);
  ASSERT_OK_AND_ASSIGN(const auto outcomes, evaluation.Next());
  const PairedSummary all = Summarise(outcomes);
  EXPECT_EQ(all.num_cases, 7);
  EXPECT_EQ(all.both_right, 2);
  EXPECT_EQ(all.only_candidate, 2);
  EXPECT_EQ(all.only_champion, 0);
  EXPECT_EQ(all.none_right, 3);
  EXPECT_EQ(all.num_identical, 4);
  EXPECT_DOUBLE_EQ(all.champion_rate.low, WilsonInterval(2, 7).low);
  EXPECT_DOUBLE_EQ(all.candidate_rate.high, WilsonInterval(4, 7).high);
  EXPECT_DOUBLE_EQ(all.difference.low, PairedDifferenceInterval(2, 2, 0, 3).low);
  const auto clusters = SummariseByCluster(outcomes);
  ASSERT_EQ(clusters.size(), 2u);
  EXPECT_EQ(clusters[0].cluster, "metres");
  EXPECT_EQ(clusters[0].only_candidate, 2);
  EXPECT_EQ(clusters[1].num_cases, 4);
  EXPECT_DOUBLE_EQ(clusters[0].candidate_answer_tokens, 1);
  EXPECT_DOUBLE_EQ(clusters[0].champion_answer_tokens, (1 + 4 + 4) / 3.0);
}

TEST_F(EvaluateTest, RatesOfOneState) {
  ASSERT_OK_AND_ASSIGN(std::vector<Episode> episodes, solver_.Solve(champion_, cases_));
  episodes[1].feedback.tool_error = true;
  const RateSummary all = Summarise(episodes);
  EXPECT_EQ(all.num_cases, 7);
  EXPECT_EQ(all.right, 2);
  EXPECT_EQ(all.tool_errors, 1);
  EXPECT_DOUBLE_EQ(all.rate.high, WilsonInterval(2, 7).high);
  const auto clusters = SummariseByCluster(episodes);
  ASSERT_EQ(clusters.size(), 2u);
  EXPECT_EQ(clusters[1].cluster, "other");
  EXPECT_EQ(clusters[1].right, 1);
  const RateSummary none = Summarise(std::vector<Episode>());
  EXPECT_EQ(none.num_cases, 0);
  EXPECT_EQ(none.mean_answer_tokens, 0);
}

}  // namespace
}  // namespace evolora
