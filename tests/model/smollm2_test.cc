// SmolLM2-135M-Instruct against transformers (tools/golden/model_golden.py). Reads the GGUF named
// by EVOLORA_SMOLLM2_GGUF and is skipped without it. EVOLORA_SHARD=i/n runs every n-th chat from i.

#include <algorithm>
#include <cstdlib>

#include "absl/strings/numbers.h"
#include "absl/strings/str_split.h"
#include "evolora/core/json.h"
#include "evolora/model/init_torch.h"
#include "evolora/model/reference_forward.h"
#include "evolora/model/text_model.h"
#include "support/status_matchers.h"
#include "support/temp_dir.h"

namespace evolora {
namespace {

class SmolLm2 : public ::testing::Test {
 protected:
  static void SetUpTestSuite() {
    const char* path = std::getenv("EVOLORA_SMOLLM2_GGUF");
    if (path == nullptr || !PosixFileSystem().Exists(path)) return;
    ASSERT_TRUE(InitTorch(2).ok());
    const double start = SystemClock().MonotonicSeconds();
    auto base = LoadBase(PosixFileSystem(), path);
    ASSERT_TRUE(base.ok()) << base.status();
    load_seconds_ = SystemClock().MonotonicSeconds() - start;
    auto model = TextModel::Create(*base);
    ASSERT_TRUE(model.ok()) << model.status();
    base_ = new BaseModel(*std::move(base));
    model_ = model->release();
    auto text =
        PosixFileSystem().ReadFile(testing::SourcePath("tests/golden/model/smollm2.json"), 1 << 24);
    ASSERT_TRUE(text.ok()) << text.status();
    golden_ = new Json(Json::parse(*text));
  }
  static void TearDownTestSuite() {
    delete model_;
    delete base_;
    delete golden_;
  }
  void SetUp() override {
    if (model_ == nullptr) GTEST_SKIP() << "EVOLORA_SMOLLM2_GGUF names no file";
  }

  static BaseModel* base_;
  static TextModel* model_;
  static Json* golden_;
  static double load_seconds_;
};
BaseModel* SmolLm2::base_ = nullptr;
TextModel* SmolLm2::model_ = nullptr;
Json* SmolLm2::golden_ = nullptr;
double SmolLm2::load_seconds_ = 0;

TEST_F(SmolLm2, LoadsWithItsTokenizerAndChatFormat) {
  RecordProperty("load_seconds", std::to_string(load_seconds_));
  EXPECT_EQ(CountParameters(base_->config()), 134515008);
  ASSERT_NE(base_->tokenizer, nullptr);
  ASSERT_TRUE(base_->chat_format.ok()) << base_->chat_format.status();
  for (const Json& chat : (*golden_)["chats"]) {
    const std::vector<Message> messages = {{"user", chat["prompt"].get<std::string>()}};
    ASSERT_OK_AND_ASSIGN(const std::vector<TokenId> ids, model_->EncodeChat(messages));
    EXPECT_EQ(ids, chat["ids"].get<std::vector<TokenId>>()) << chat["prompt"];
  }
}

TEST_F(SmolLm2, LogitsAreTransformersWithin2e3) {
  for (const Json& row : (*golden_)["logits"]) {
    SCOPED_TRACE(row["text"].dump());
    const auto ids = row["ids"].get<std::vector<TokenId>>();
    ASSERT_OK_AND_ASSIGN(
        const auto encoded,
        base_->tokenizer->Encode(row["text"].get<std::string>(), SpecialText::kAsText));
    EXPECT_EQ(encoded, ids);
    ASSERT_OK_AND_ASSIGN(const auto scored,
                         model_->Score(std::vector<ScoreRequest>{{ids, "", true}}));
    const std::vector<float>& logits = scored[0].last_logits;
    for (size_t i = 0; i < row["top_ids"].size(); ++i) {
      EXPECT_NEAR(logits[row["top_ids"][i].get<size_t>()], row["top_logits"][i].get<float>(), 2e-3);
    }
    for (size_t i = 0; i < row["sampled"].size(); ++i) {
      EXPECT_NEAR(logits[i * 97], row["sampled"][i].get<float>(), 2e-3);
    }
    EXPECT_NEAR(*std::min_element(logits.begin(), logits.end()), row["min"].get<float>(), 2e-3);
    ASSERT_OK_AND_ASSIGN(const TokenBatch batch, PadRight(std::vector<std::vector<TokenId>>{ids}));
    ASSERT_OK_AND_ASSIGN(const at::Tensor reference,
                         ReferenceLogits(*base_->weights, nullptr, batch));
    const at::Tensor last = reference[0][-1].contiguous();
    for (size_t i = 0; i < logits.size(); ++i) {
      ASSERT_NEAR(logits[i], last.const_data_ptr<float>()[i], 2e-3);
    }
  }
}

TEST_F(SmolLm2, GreedyChatsAreTransformersTextExactly) {
  size_t shard = 0;
  size_t num_shards = 1;
  if (const char* value = std::getenv("EVOLORA_SHARD"); value != nullptr) {
    const std::vector<std::string> parts = absl::StrSplit(value, '/');
    ASSERT_TRUE(parts.size() == 2 && absl::SimpleAtoi(parts[0], &shard) &&
                absl::SimpleAtoi(parts[1], &num_shards));
  }
  std::vector<GenerateRequest> requests;
  std::vector<const Json*> expected;
  const Json& chats = (*golden_)["chats"];
  for (size_t i = shard; i < chats.size(); i += num_shards) {
    requests.push_back(
        {.messages = {{"user", chats[i]["prompt"].get<std::string>()}}, .max_new_tokens = 48});
    expected.push_back(&chats[i]);
  }
  ASSERT_OK_AND_ASSIGN(const auto done, model_->Generate(requests));
  for (size_t i = 0; i < done.size(); ++i) {
    EXPECT_EQ(done[i].ids, (*expected[i])["greedy"].get<std::vector<TokenId>>());
    EXPECT_EQ(done[i].text, (*expected[i])["text"].get<std::string>());
    EXPECT_EQ(done[i].finish_reason, done[i].ids.size() < 48 ? "stop" : "length");
  }
}

}  // namespace
}  // namespace evolora
