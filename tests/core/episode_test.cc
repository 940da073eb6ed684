#include "evolora/core/episode.h"

#include <functional>
#include <string>
#include <vector>

#include "evolora/core/sha256.h"
#include "support/status_matchers.h"

namespace evolora {
namespace {

using ::testing::HasSubstr;
using testing::StatusIs;

Episode Sample() {
  Episode episode;
  episode.case_id = "q:1";
  episode.cluster = "geo";
  episode.version_id = "v1";
  episode.adapter = "a1";
  episode.used = {"k1", "s2"};
  episode.output = "Lyon";
  episode.finish_reason = "stop";
  episode.feedback = {.success = false, .score = 0.25, .detail = "wrong town", .tool_error = true};
  episode.compute = {.prompt_tokens = 12, .generated_tokens = 3, .flops = 4e9, .seconds = 0.5};
  return episode;
}

std::string IdOf(Episode episode) {
  AssignEpisodeId(episode);
  return episode.id;
}

TEST(Episode, RoundTripsThroughJson) {
  Episode episode = Sample();
  AssignEpisodeId(episode);
  ASSERT_OK_AND_ASSIGN(const Episode read, EpisodeFromJson(EpisodeToJson(episode)));
  EXPECT_EQ(EpisodeToJson(read), EpisodeToJson(episode));
  EXPECT_EQ(read.id, episode.id);
  EXPECT_EQ(read.used, episode.used);
  EXPECT_TRUE(read.feedback.tool_error);
  EXPECT_EQ(read.compute.seconds, 0.5);
}

TEST(Episode, IdIsTheDigestOfTheCanonicalContent) {
  Json json = EpisodeToJson(Sample());
  json.erase("id");
  json["compute"].erase("seconds");
  EXPECT_EQ(IdOf(Sample()), Sha256Hex(CanonicalJson(json)));
}

TEST(Episode, IdIgnoresMeasuredTimeAndAnOldId) {
  Episode other = Sample();
  other.compute.seconds = 99;
  other.id = "something";
  EXPECT_EQ(IdOf(other), IdOf(Sample()));
}

TEST(Episode, IdDependsOnEveryOtherField) {
  const std::vector<std::function<void(Episode&)>> changes = {
      [](Episode& e) { e.case_id = "x"; },
      [](Episode& e) { e.cluster = "x"; },
      [](Episode& e) { e.version_id = "x"; },
      [](Episode& e) { e.adapter = "x"; },
      [](Episode& e) { e.used.pop_back(); },
      [](Episode& e) { e.output = "x"; },
      [](Episode& e) { e.finish_reason = "length"; },
      [](Episode& e) { e.feedback.success = true; },
      [](Episode& e) { e.feedback.score = 0.5; },
      [](Episode& e) { e.feedback.detail = "x"; },
      [](Episode& e) { e.feedback.tool_error = false; },
      [](Episode& e) { e.compute.prompt_tokens = 1; },
      [](Episode& e) { e.compute.flops = 1; },
  };
  for (size_t i = 0; i < changes.size(); ++i) {
    SCOPED_TRACE(i);
    Episode changed = Sample();
    changes[i](changed);
    EXPECT_NE(IdOf(changed), IdOf(Sample()));
  }
}

TEST(Episode, OutputThatIsNoUtf8KeepsItsIdThroughJson) {
  Episode episode = Sample();
  episode.output = "cut \xe2\x82";
  episode.feedback.detail = "\xff";
  AssignEpisodeId(episode);
  ASSERT_OK_AND_ASSIGN(const Episode read, EpisodeFromJson(EpisodeToJson(episode)));
  EXPECT_EQ(read.id, episode.id);
  EXPECT_EQ(read.output, "cut \xef\xbf\xbd");
}

TEST(EpisodeFromJson, FillsInAnAbsentId) {
  Json json = EpisodeToJson(Sample());
  json.erase("id");
  ASSERT_OK_AND_ASSIGN(const Episode read, EpisodeFromJson(json));
  EXPECT_EQ(read.id, IdOf(Sample()));
}

TEST(EpisodeFromJson, ReadsTheFewestFields) {
  ASSERT_OK_AND_ASSIGN(
      const Json json,
      ParseJson(R"({"case_id": "q", "output": "", "feedback": {"success": true, "score": 1}})"));
  ASSERT_OK_AND_ASSIGN(const Episode read, EpisodeFromJson(json));
  EXPECT_TRUE(read.feedback.success);
  EXPECT_TRUE(IsSha256Hex(read.id));
}

TEST(EpisodeFromJson, ContentThatDoesNotFitTheIdIsDataLoss) {
  Episode episode = Sample();
  AssignEpisodeId(episode);
  episode.output = "Paris";
  EXPECT_THAT(EpisodeFromJson(EpisodeToJson(episode)),
              StatusIs(absl::StatusCode::kDataLoss, HasSubstr(episode.id)));
}

TEST(EpisodeFromJson, RefusesWrongFields) {
  const std::vector<std::pair<std::function<void(Json&)>, std::string>> rows = {
      {[](Json& j) { j.erase("output"); }, "episode.output: missing"},
      {[](Json& j) { j["extra"] = 1; }, "episode.extra: unknown field"},
      {[](Json& j) { j["used"] = {1}; }, "episode.used: [0]: expected a string"},
      {[](Json& j) { j["feedback"]["score"] = 1.5; }, "feedback.score: 1.5 is not in [0, 1]"},
      {[](Json& j) { j["feedback"]["x"] = 1; }, "episode.feedback.x: unknown field"},
      {[](Json& j) { j["feedback"].erase("success"); }, "episode.feedback.success: missing"},
      {[](Json& j) { j["compute"]["prompt_tokens"] = -1; }, "compute.prompt_tokens: -1 is not in"},
      {[](Json& j) { j["compute"]["seconds"] = -1; }, "compute.seconds: negative"},
      {[](Json& j) { j["compute"] = 1; }, "episode.compute: expected an object"},
  };
  for (const auto& [spoil, message] : rows) {
    SCOPED_TRACE(message);
    Json json = EpisodeToJson(Sample());
    spoil(json);
    EXPECT_THAT(EpisodeFromJson(json),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(message)));
  }
}

}  // namespace
}  // namespace evolora
