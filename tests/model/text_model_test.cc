#include "evolora/model/text_model.h"

#include "model/random_model.h"
#include "support/status_matchers.h"
#include "support/temp_dir.h"

namespace evolora {
namespace {

using ::testing::HasSubstr;
using testing::SourcePath;
using testing::StatusIs;

absl::StatusOr<BaseModel> LoadStories(const LoadOptions& extra = {}) {
  LoadOptions options = extra;
  options.tokenizer_path = SourcePath("tests/fixtures/stories260K/tok512.model");
  return LoadBase(PosixFileSystem(), SourcePath("tests/fixtures/stories260K/stories260K.bin"),
                  options);
}

std::unique_ptr<TextModel> Stories(const LoadOptions& options = {}) {
  auto base = LoadStories(options);
  EXPECT_TRUE(base.ok()) << base.status();
  auto model = TextModel::Create(*base);
  EXPECT_TRUE(model.ok()) << model.status();
  return *std::move(model);
}

TEST(TextModel, StoriesGreedyTextIsTheReferencesByteForByte) {
  const auto model = Stories();
  ASSERT_OK_AND_ASSIGN(
      const std::string expected,
      PosixFileSystem().ReadFile(SourcePath("tests/fixtures/stories260K/expected-greedy-200.txt"),
                                 1 << 16));
  // The reference counts BOS among its 200 steps.
  ASSERT_OK_AND_ASSIGN(
      const auto done,
      model->Generate(std::vector<GenerateRequest>{{.ids = {1}, .max_new_tokens = 200}}));
  EXPECT_EQ(done[0].text, expected);
  EXPECT_EQ(done[0].finish_reason, "length");
  EXPECT_EQ(done[0].num_prompt_tokens, 1);
  EXPECT_LT(done[0].sum_logprob, 0);
}

TEST(TextModel, AStopStringEndsTheTextBeforeIt) {
  const auto model = Stories();
  ASSERT_OK_AND_ASSIGN(
      const auto done,
      model->Generate(std::vector<GenerateRequest>{
          {.ids = {1}, .max_new_tokens = 200, .stop = {"nothing like this", " little girl"}},
          {.ids = {1}, .max_new_tokens = 5}}));
  EXPECT_EQ(done[0].text, "Once upon a time, there was a");
  EXPECT_EQ(done[0].finish_reason, "stop");
  ASSERT_OK_AND_ASSIGN(const std::string decoded, LoadStories()->tokenizer->Decode(done[0].ids));
  EXPECT_EQ(decoded, done[0].text);
  EXPECT_EQ(done[1].ids.size(), 5u);
  EXPECT_EQ(done[1].finish_reason, "length");
}

// At such a temperature the end-of-text id comes as often as any other of the 512.
TEST(TextModel, WithoutAnEndARowGoesOnBehindIt) {
  const auto model = Stories();
  std::vector<GenerateRequest> requests;
  for (uint64_t seed = 0; seed < 8; ++seed) {
    requests.push_back(
        {.ids = {1}, .max_new_tokens = 250, .sampling = {.temperature = 90, .seed = seed}});
  }
  ASSERT_OK_AND_ASSIGN(const auto ended, model->Generate(requests));
  for (GenerateRequest& request : requests) request.ignore_eos = true;
  ASSERT_OK_AND_ASSIGN(const auto whole, model->Generate(requests));
  size_t num_ended = 0;
  for (size_t i = 0; i < requests.size(); ++i) {
    const auto& ids = whole[i].ids;
    EXPECT_EQ(ids.size(), 250u);
    EXPECT_EQ(whole[i].finish_reason, "length");
    ASSERT_LE(ended[i].ids.size(), ids.size());
    EXPECT_TRUE(std::equal(ended[i].ids.begin(), ended[i].ids.end(), ids.begin()));
    if (ended[i].finish_reason != "stop") continue;
    EXPECT_EQ(ids[ended[i].ids.size()], LoadStories()->tokenizer->eos_id());
    ++num_ended;
  }
  EXPECT_GT(num_ended, 0u);
}

TEST(TextModel, ASampleHoldsTheLogProbabilitiesThatScoreGives) {
  const auto model = Stories();
  ASSERT_OK_AND_ASSIGN(
      const auto samples,
      model->GenerateSamples(std::vector<GenerateRequest>{
          {.ids = {1, 403}, .max_new_tokens = 12, .sampling = {.temperature = 0.7, .seed = 3}},
          {.ids = {1}, .max_new_tokens = 200, .stop = {" little girl"}}}));
  for (const TextSample& sample : samples) {
    EXPECT_EQ(sample.answer_ids, sample.completion.ids);  // no end token among them
    ASSERT_EQ(sample.logprobs.size(), sample.answer_ids.size());
    std::vector<TokenId> ids = sample.prompt_ids;
    ids.insert(ids.end(), sample.answer_ids.begin(), sample.answer_ids.end());
    ASSERT_OK_AND_ASSIGN(const auto scored, model->Score(std::vector<ScoreRequest>{{.ids = ids}}));
    const size_t first = sample.prompt_ids.size() - 1;
    double sum = 0;
    for (size_t i = 0; i < sample.logprobs.size(); ++i) {
      EXPECT_NEAR(sample.logprobs[i], static_cast<double>(scored[0].logprobs[first + i]), 1e-5);
      sum += sample.logprobs[i];
    }
    EXPECT_DOUBLE_EQ(sample.completion.sum_logprob, sum);
  }
  EXPECT_EQ(samples[0].prompt_ids, (std::vector<TokenId>{1, 403}));
  EXPECT_EQ(samples[0].answer_ids.size(), 12u);
}

TEST(TextModel, ChatsNeedAFormatAndNameIt) {
  const auto plain = Stories();
  const std::vector<Message> chat = {{"user", "Tell me a story."}};
  EXPECT_THAT(plain->EncodeChat(chat),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("--chat-format")));
  EXPECT_THAT(plain->Generate(std::vector<GenerateRequest>{{.ids = {1}}, {.messages = chat}}),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("row 1: ")));
  EXPECT_THAT(plain->Generate(std::vector<GenerateRequest>{{.ids = {1}, .stop = {""}}}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("row 0: empty stop string")));
  EXPECT_THAT(LoadStories({.chat_format = "nonsense"}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("nonsense")));
}

TEST(TextModel, WithoutATokenizerIdsStillGenerate) {
  ASSERT_OK_AND_ASSIGN(
      const BaseModel base,
      LoadBase(PosixFileSystem(), SourcePath("tests/fixtures/stories260K/stories260K.bin")));
  ASSERT_OK_AND_ASSIGN(const auto model, TextModel::Create(base));
  ASSERT_OK_AND_ASSIGN(
      const auto done,
      model->Generate(std::vector<GenerateRequest>{{.ids = {1}, .max_new_tokens = 8}}));
  EXPECT_EQ(done[0].ids.size(), 8u);
  EXPECT_EQ(done[0].text, "");
  EXPECT_THAT(model->Generate(std::vector<GenerateRequest>{{.messages = {{"user", "hi"}}}}),
              StatusIs(absl::StatusCode::kFailedPrecondition, HasSubstr("no tokenizer")));
  EXPECT_THAT(model->Generate(std::vector<GenerateRequest>{{.ids = {1}, .stop = {"x"}}}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("stop string")));
}

TEST(TextModel, RowsNameAdaptersByDigest) {
  const auto model = Stories();
  ASSERT_OK_AND_ASSIGN(const std::string digest,
                       model->LoadAdapter(testing::RandomAdapter(model->config(), 4, 1)));
  ASSERT_OK_AND_ASSIGN(const auto done,
                       model->Generate(std::vector<GenerateRequest>{
                           {.ids = {1}, .max_new_tokens = 30},
                           {.ids = {1}, .adapter = digest, .max_new_tokens = 30}}));
  EXPECT_NE(done[0].ids, done[1].ids);
  EXPECT_TRUE(model->UnloadAdapter(digest).ok());
  EXPECT_THAT(model->Generate(std::vector<GenerateRequest>{{.ids = {1}, .adapter = digest}}),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr(digest)));
}

TEST(TextModel, ComputeIsCountedFromShapes) {
  const auto model = Stories();
  const LlamaConfig& config = model->config();
  ASSERT_OK_AND_ASSIGN(
      const auto done,
      model->Generate(std::vector<GenerateRequest>{{.ids = {1, 2, 3}, .max_new_tokens = 2}}));
  const Compute spent = model->spent();
  EXPECT_EQ(spent.prompt_tokens, 3);
  EXPECT_EQ(spent.generated_tokens, 2);
  double flops = 2 * HeadFlopsPerRow(config);
  for (int t = 0; t < 4; ++t) flops += LayerFlopsPerToken(config, t);
  EXPECT_DOUBLE_EQ(spent.flops, flops);
  EXPECT_GT(spent.seconds, 0);
}

}  // namespace
}  // namespace evolora
