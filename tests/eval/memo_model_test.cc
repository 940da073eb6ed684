#include "evolora/eval/memo_model.h"

#include <algorithm>
#include <memory>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "support/fake_model.h"
#include "support/status_matchers.h"
#include "support/temp_dir.h"

namespace evolora {
namespace {

using ::evolora::testing::FakeModel;
using ::evolora::testing::IsOk;
using ::evolora::testing::StatusIs;
using ::testing::HasSubstr;

using Requests = std::vector<GenerateRequest>;
using Batches = std::vector<std::vector<std::string>>;

// Requests of 1 to `count` words each, in a mixed order. REQUIRES: 7 does not divide count.
Requests MakeRequests(int count) {
  Requests requests(static_cast<size_t>(count));
  for (int i = 0; i < count; ++i) {
    const int words = 1 + (i * 7) % count;
    std::string text = absl::StrCat("q", words);
    for (int w = 1; w < words; ++w) text += " w";
    requests[static_cast<size_t>(i)].messages = {{"user", text}};
  }
  return requests;
}

Batches BatchesOf(const FakeModel& model) {
  Batches out;
  for (const auto& call : model.calls) {
    out.emplace_back();
    for (const GenerateRequest& row : call) out.back().push_back(row.messages[0].content);
  }
  return out;
}

class MemoModelTest : public ::testing::Test {
 protected:
  void SetUp() override { store_ = OpenStore("e.sqlite"); }
  std::unique_ptr<EvidenceStore> OpenStore(const std::string& name) {
    auto store = EvidenceStore::Open(dir_.Join(name));
    EXPECT_THAT(store, IsOk());
    return *std::move(store);
  }
  testing::TempDir dir_;
  std::unique_ptr<EvidenceStore> store_;
};

TEST_F(MemoModelTest, AnswersTheSameAndComputesOnce) {
  FakeModel inner, plain;
  for (FakeModel* model : {&inner, &plain}) model->Answer("q3", "three");
  MemoModel memo(inner, *store_, "model-1", {.batch_size = 4});
  Requests requests = MakeRequests(10);
  requests.push_back(requests[0]);
  ASSERT_OK_AND_ASSIGN(const auto expected, plain.Generate(requests));
  for (int round = 0; round < 2; ++round) {
    ASSERT_OK_AND_ASSIGN(const auto got, memo.Generate(requests));
    ASSERT_EQ(got.size(), expected.size());
    for (size_t i = 0; i < got.size(); ++i) {
      EXPECT_EQ(got[i].text, expected[i].text);
      EXPECT_EQ(got[i].ids, expected[i].ids);
      EXPECT_EQ(got[i].finish_reason, expected[i].finish_reason);
      EXPECT_EQ(got[i].num_prompt_tokens, expected[i].num_prompt_tokens);
      EXPECT_EQ(got[i].sum_logprob, expected[i].sum_logprob);
    }
    // What the plain model spends for both rounds, repeats included.
    EXPECT_EQ(memo.charged().prompt_tokens, (round + 1) * plain.spent().prompt_tokens);
    EXPECT_EQ(memo.charged().generated_tokens, (round + 1) * plain.spent().generated_tokens);
    EXPECT_NEAR(memo.charged().flops, (round + 1) * plain.spent().flops, 1e-6);
  }
  EXPECT_EQ(inner.calls.size(), 3u);  // 10 distinct requests in chunks of 4
  EXPECT_EQ(memo.num_fresh(), 10);
  EXPECT_EQ(memo.num_cached(), 12);
  EXPECT_LT(memo.spent().prompt_tokens, memo.charged().prompt_tokens);
}

TEST_F(MemoModelTest, BatchesGoByPromptLength) {
  FakeModel inner;
  MemoModel memo(inner, *store_, "m", {.batch_size = 3});
  ASSERT_THAT(memo.Generate(MakeRequests(8)), IsOk());
  std::vector<size_t> lengths;
  for (const auto& batch : BatchesOf(inner)) {
    for (const std::string& text : batch) lengths.push_back(text.size());
  }
  EXPECT_TRUE(std::is_sorted(lengths.begin(), lengths.end()));
  EXPECT_EQ(inner.calls[0].size(), 3u);
  EXPECT_EQ(inner.calls[2].size(), 2u);
}

TEST_F(MemoModelTest, ARunKilledAnywhereAndStartedAgainFormsTheSameBatchesAndCharges) {
  const Requests requests = MakeRequests(10);
  FakeModel whole;
  MemoModel whole_memo(whole, *store_, "m", {.batch_size = 3});
  ASSERT_THAT(whole_memo.Generate(requests), IsOk());
  for (int kill_at = 0; kill_at < 4; ++kill_at) {
    SCOPED_TRACE(kill_at);
    auto store = OpenStore(absl::StrCat("k", kill_at, ".sqlite"));
    FakeModel first;
    first.fail_at_call = kill_at;
    EXPECT_FALSE(MemoModel(first, *store, "m", {.batch_size = 3}).Generate(requests).ok());
    FakeModel second;
    MemoModel memo(second, *store, "m", {.batch_size = 3});
    ASSERT_THAT(memo.Generate(requests), IsOk());
    Batches both = BatchesOf(first);
    for (auto& batch : BatchesOf(second)) both.push_back(std::move(batch));
    EXPECT_EQ(both, BatchesOf(whole));
    EXPECT_EQ(memo.charged().prompt_tokens, whole_memo.charged().prompt_tokens);
    EXPECT_EQ(memo.charged().generated_tokens, whole_memo.charged().generated_tokens);
    EXPECT_EQ(memo.charged().flops, whole_memo.charged().flops);
  }
}

TEST_F(MemoModelTest, AnotherModelOrSeedIsAnotherAnswer) {
  FakeModel inner;
  inner.Add({{"q"}, "heads", "*", 0.5});
  MemoModel one(inner, *store_, "m1");
  MemoModel two(inner, *store_, "m2");
  GenerateRequest request;
  request.messages = {{"user", "q"}};
  ASSERT_THAT(one.Generate({request}), IsOk());
  ASSERT_THAT(two.Generate({request}), IsOk());
  EXPECT_EQ(inner.calls.size(), 2u);
  request.sampling = {.temperature = 1, .seed = 1};
  ASSERT_THAT(one.Generate({request}), IsOk());
  request.sampling.seed = 2;
  ASSERT_THAT(one.Generate({request}), IsOk());
  EXPECT_EQ(inner.calls.size(), 4u);
  ASSERT_OK_AND_ASSIGN(const int64_t kept, store_->CountCompletions());
  EXPECT_EQ(kept, 4);
}

TEST_F(MemoModelTest, KeepsTextThatIsNotUtf8) {
  FakeModel inner;
  inner.Answer("q", "half \xE2\x82");
  MemoModel memo(inner, *store_, "m");
  GenerateRequest request;
  request.messages = {{"user", "q"}};
  for (int round = 0; round < 2; ++round) {
    ASSERT_OK_AND_ASSIGN(const auto got, memo.Generate({request}));
    EXPECT_EQ(got[0].text, "half \xE2\x82");
  }
  EXPECT_EQ(inner.calls.size(), 1u);
}

TEST_F(MemoModelTest, ErrorsOfTheModelComeThroughAndNothingIsKept) {
  FakeModel inner;
  inner.fail_at_call = 0;
  MemoModel memo(inner, *store_, "m");
  EXPECT_THAT(memo.Generate(MakeRequests(2)),
              StatusIs(absl::StatusCode::kUnavailable, HasSubstr("call 0")));
  ASSERT_OK_AND_ASSIGN(const int64_t kept, store_->CountCompletions());
  EXPECT_EQ(kept, 0);
  EXPECT_THAT(memo.Generate({GenerateRequest{}}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("empty prompt")));
}

}  // namespace
}  // namespace evolora
