#include "evolora/data/stream.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "evolora/core/file_system.h"
#include "support/mutate.h"
#include "support/status_matchers.h"
#include "support/temp_dir.h"

namespace evolora {
namespace {

using ::evolora::testing::IsOk;
using ::evolora::testing::StatusIs;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

std::string Row(const std::string& id, const std::string& split) {
  return absl::StrCat(R"({"id":")", id, R"(","cluster":"c1","split":")", split,
                      R"(","messages":[{"role":"user","content":"q of )", id,
                      R"("}],"verify":{"type":"exact","any_of":["a"]},"feedback":{"answer":"a"}})");
}

class FakeRecorder : public LookRecorder {
 public:
  absl::StatusOr<int64_t> RecordLook(const Look& look) override {
    if (!error.ok()) return error;
    looks.push_back(look);
    return static_cast<int64_t>(looks.size());
  }
  absl::Status error;
  std::vector<Look> looks;
};

TEST(Stream, SortsRowsBySplitInFileOrder) {
  const std::string text =
      absl::StrCat(Row("s1", "stream"), "\n", Row("q1", "query"), "\r\n", Row("s2", "stream"), "\n",
                   Row("a1", "anchor"), "\n", Row("t1", "test"));
  ASSERT_OK_AND_ASSIGN(const Stream stream, ParseStream(text, "x.jsonl"));
  ASSERT_EQ(stream.stream().size(), 2u);
  EXPECT_EQ(stream.stream()[0].id, "s1");
  EXPECT_EQ(stream.stream()[1].id, "s2");
  ASSERT_EQ(stream.query().size(), 1u);
  ASSERT_EQ(stream.anchor().size(), 1u);
  EXPECT_EQ(stream.num_sealed(), 1);
}

TEST(Stream, TestCasesComeOutOnlyAfterTheLookIsRecorded) {
  ASSERT_OK_AND_ASSIGN(const Stream stream, ParseStream(Row("t1", "test"), "x"));
  FakeRecorder recorder;
  EXPECT_THAT(stream.OpenSealed(recorder, " "),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("reason")));
  EXPECT_TRUE(recorder.looks.empty());
  recorder.error = absl::ResourceExhaustedError("disk full");
  EXPECT_THAT(stream.OpenSealed(recorder, "report"),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("disk full")));
  recorder.error = absl::OkStatus();
  ASSERT_OK_AND_ASSIGN(const OpenedSeal opened, stream.OpenSealed(recorder, "report"));
  ASSERT_EQ(opened.cases.size(), 1u);
  EXPECT_EQ(opened.cases[0].id, "t1");
  EXPECT_EQ(opened.num_looks, 1);
  EXPECT_EQ(recorder.looks[0].stream_digest, stream.digest());
  EXPECT_EQ(recorder.looks[0].reason, "report");
}

TEST(Stream, DigestDependsOnContentAndOrderNotOnWhiteSpace) {
  const std::string a = Row("s1", "stream");
  const std::string b = Row("t1", "test");
  ASSERT_OK_AND_ASSIGN(const Stream one, ParseStream(a + "\n" + b + "\n", "x"));
  ASSERT_OK_AND_ASSIGN(const Stream same, ParseStream(" " + a + "\r\n" + b + " \r\n", "y"));
  ASSERT_OK_AND_ASSIGN(const Stream swapped, ParseStream(b + "\n" + a, "x"));
  ASSERT_OK_AND_ASSIGN(const Stream other, ParseStream(a + "\n" + Row("t2", "test"), "x"));
  EXPECT_EQ(one.digest(), same.digest());
  EXPECT_NE(one.digest(), swapped.digest());
  EXPECT_NE(one.digest(), other.digest());
}

TEST(Stream, ErrorsNameFileLineAndColumn) {
  struct RowOfTable {
    const char* name;
    std::string text;
    absl::StatusCode code;
    std::vector<const char*> words;
  };
  const std::string good = Row("s1", "stream");
  std::string unknown_field = good;
  unknown_field.insert(1, R"("extra":1,)");
  const std::vector<RowOfTable> rows = {
      {"broken JSON", good + "\n{\"id\": x}", absl::StatusCode::kInvalidArgument, {"f.jsonl:2:8"}},
      {"empty line", good + "\n\n" + good, absl::StatusCode::kInvalidArgument, {"f.jsonl:2:1"}},
      {"blank line", good + "\n  \n", absl::StatusCode::kInvalidArgument, {"f.jsonl:2"}},
      {"BOM", "\xEF\xBB\xBF" + good, absl::StatusCode::kInvalidArgument, {":1:1", "byte order"}},
      {"no rows", "", absl::StatusCode::kInvalidArgument, {"f.jsonl", "no rows"}},
      {"not an object", "[1]", absl::StatusCode::kInvalidArgument, {"f.jsonl:1"}},
      {"unknown field", unknown_field, absl::StatusCode::kInvalidArgument, {"f.jsonl:1", "extra"}},
      {"duplicate id",
       good + "\n" + Row("s2", "query") + "\n" + Row("s1", "test"),
       absl::StatusCode::kInvalidArgument,
       {"f.jsonl:3", "'s1'", "line 1"}},
      {"duplicate key",
       R"({"id":"a","id":"a"})",
       absl::StatusCode::kInvalidArgument,
       {"f.jsonl:1", "id"}},
      {"two values", good + good, absl::StatusCode::kInvalidArgument, {"f.jsonl:1:"}},
      {"bad UTF-8", "{\"id\":\"\xff\"}", absl::StatusCode::kInvalidArgument, {"f.jsonl:1"}},
      {"CR alone", good + "\r" + good, absl::StatusCode::kInvalidArgument, {"f.jsonl:1"}},
  };
  for (const RowOfTable& row : rows) {
    SCOPED_TRACE(row.name);
    const auto result = ParseStream(row.text, "f.jsonl");
    for (const char* word : row.words) EXPECT_THAT(result, StatusIs(row.code, HasSubstr(word)));
  }
}

TEST(Stream, LimitsAreNamedWithTheLine) {
  const std::string two = Row("s1", "stream") + "\n" + Row("s2", "stream");
  StreamLimits limits;
  limits.max_rows = 1;
  EXPECT_THAT(ParseStream(two, "f", limits), StatusIs(absl::StatusCode::kResourceExhausted,
                                                      AllOf(HasSubstr("f:2"), HasSubstr("1"))));
  limits = {};
  limits.max_line_bytes = 20;
  EXPECT_THAT(ParseStream(two, "f", limits),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("f:1: line of")));
  limits = {};
  limits.max_file_bytes = 20;
  EXPECT_THAT(ParseStream(two, "f", limits),
              StatusIs(absl::StatusCode::kResourceExhausted, HasSubstr("20")));
  limits = {};
  limits.max_depth = 2;
  EXPECT_THAT(ParseStream(two, "f", limits), Not(IsOk()));
}

TEST(Stream, LoadsAFile) {
  const testing::TempDir dir;
  const std::string path = dir.Join("s.jsonl");
  ASSERT_THAT(PosixFileSystem().WriteFileAtomic(path, Row("s1", "stream")), IsOk());
  ASSERT_OK_AND_ASSIGN(const Stream stream, LoadStream(PosixFileSystem(), path));
  EXPECT_EQ(stream.stream().size(), 1u);
  EXPECT_THAT(LoadStream(PosixFileSystem(), dir.Join("none")),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("none")));
}

TEST(Stream, EveryExampleOfTheSchemaPageParses) {
  ASSERT_OK_AND_ASSIGN(const std::string page,
                       PosixFileSystem().ReadFile(testing::SourcePath("data/SCHEMA.md"), 1 << 20));
  std::string rows;
  for (size_t at = page.find("\n{"); at != std::string::npos; at = page.find("\n{", at + 1)) {
    absl::StrAppend(&rows, page.substr(at + 1, page.find('\n', at + 1) - at));
  }
  ASSERT_OK_AND_ASSIGN(const Stream stream, ParseStream(rows, "SCHEMA.md"));
  EXPECT_EQ(stream.stream().size() + stream.query().size() + stream.anchor().size() +
                static_cast<size_t>(stream.num_sealed()),
            6u);
}

TEST(Stream, MutatedFilesAreReadOrRefused) {
  const std::string tool =
      R"({"id":"t1","cluster":"tools","split":"anchor","messages":[{"role":"system","content":"s"},)"
      R"({"role":"user","content":"caf\u00e9 \ud83d\ude00"}],"verify":{"type":"tool_call","name":"f",)"
      R"("arguments":{"x":{"type":"integer","any_of":[1,-2e3]}},"runtime_tools":["f","g"]},)"
      R"("volatile":true,"private":false})";
  const std::string regex =
      R"({"id":"r1","cluster":"c","split":"query","messages":[{"role":"user","content":"q"}],)"
      R"("verify":{"type":"regex","pattern":"^a(b|c)*[0-9]{2,3}$"}})";
  const std::string number =
      R"({"id":"n1","cluster":"c","split":"test","messages":[{"role":"user","content":"q"}],)"
      R"("verify":{"type":"number","value":12.5,"tolerance":0.01}})";
  const std::vector<std::string> seeds = {Row("s1", "stream") + "\n" + Row("q1", "query") + "\n",
                                          tool + "\r\n" + regex, regex + "\n",
                                          number + "\n" + tool};
  const auto result = testing::RunMutations(
      seeds, 3000, 7, [](const std::string& input) { return ParseStream(input, "m").status(); });
  EXPECT_GT(result.num_refused, 0);
}

}  // namespace
}  // namespace evolora
