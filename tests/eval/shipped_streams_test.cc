// The streams in data/streams must be what data/README.md says of them.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "evolora/core/file_system.h"
#include "evolora/data/stream.h"
#include "evolora/eval/verify.h"
#include "support/status_matchers.h"

namespace evolora {
namespace {

// Opens the seal and forgets it: the files themselves are looked at, no model is.
class NoRecord : public LookRecorder {
 public:
  absl::StatusOr<int64_t> RecordLook(const Look&) override { return 1; }
};

Stream LoadShipped(const std::string& name) {
  const std::string root = std::getenv("EVOLORA_SOURCE_DIR");
  absl::StatusOr<Stream> stream = LoadStream(PosixFileSystem(), root + "/data/streams/" + name);
  EXPECT_TRUE(stream.ok()) << stream.status();
  return *std::move(stream);
}

std::vector<Case> AllCases(const Stream& stream) {
  NoRecord recorder;
  std::vector<Case> cases = stream.OpenSealed(recorder, "checks the file")->cases;
  for (const auto* split : {&stream.stream(), &stream.query(), &stream.anchor()}) {
    cases.insert(cases.end(), split->begin(), split->end());
  }
  return cases;
}

TEST(ShippedStreams, EveryVerifierCanJudge) {
  for (const char* name : {"quickstart.jsonl", "tiny.jsonl"}) {
    for (const Case& c : AllCases(LoadShipped(name))) {
      EXPECT_TRUE(ValidateSpec(c.verify).ok()) << name << " " << c.id << ValidateSpec(c.verify);
    }
  }
}

TEST(ShippedStreams, ToldAnswersAreRightExceptWhereAFaultIsPlanted) {
  for (const char* name : {"quickstart.jsonl", "tiny.jsonl"}) {
    const Stream stream = LoadShipped(name);
    for (const Case& c : stream.stream()) {
      const Feedback feedback = Verify(c.verify, c.feedback.answer);
      EXPECT_EQ(feedback.success, c.fault.empty()) << c.id << ": " << feedback.detail;
      EXPECT_EQ(feedback.tool_error, c.fault == "tool") << c.id << ": " << feedback.detail;
    }
  }
}

TEST(ShippedStreams, NoFunctionIsInTwoSplits) {
  std::map<std::string, std::set<Split>> splits;
  for (const Case& c : AllCases(LoadShipped("quickstart.jsonl"))) {
    if (c.verify.type == VerifyType::kToolCall) splits[c.verify.tool_name].insert(c.split);
  }
  EXPECT_GT(splits.size(), 150u);
  for (const auto& [name, used] : splits) EXPECT_EQ(used.size(), 1u) << name;
}

TEST(ShippedStreams, NoPromptIsInTwoSplits) {
  std::map<std::string, std::string> owner;
  for (const Case& c : AllCases(LoadShipped("quickstart.jsonl"))) {
    std::string prompt;
    for (const Message& message : c.messages) prompt += message.content + "\n";
    const auto [it, is_new] = owner.emplace(prompt, c.id);
    EXPECT_TRUE(is_new) << c.id << " asks what " << it->second << " asks";
  }
}

}  // namespace
}  // namespace evolora
