#include "evolora/core/case.h"

#include <string>
#include <vector>

#include "support/status_matchers.h"

namespace evolora {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using testing::IsOk;
using testing::StatusIs;

constexpr char kRow[] = R"({"id": "q:1", "cluster": "geo", "split": "stream",
  "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Capital?"}],
  "verify": {"type": "exact", "any_of": ["Paris"]}, "feedback": {"answer": "Paris"}})";

Json Row() { return *ParseJson(kRow); }

Json RowWith(const std::string& pointer, const char* value) {
  Json row = Row();
  row[Json::json_pointer(pointer)] = *ParseJson(value);
  return row;
}

Json RowWithout(const std::string& key) {
  Json row = Row();
  row.erase(key);
  return row;
}

TEST(CaseFromJson, ReadsAllFields) {
  Json row = Row();
  row["volatile"] = true;
  row["private"] = true;
  row["fault"] = "verifier";
  row["feedback"] = {{"answer", "Paris"}, {"rule", "r"}, {"hint", "h"}};
  ASSERT_OK_AND_ASSIGN(const Case c, CaseFromJson(row));
  EXPECT_EQ(c.id, "q:1");
  EXPECT_EQ(c.cluster, "geo");
  EXPECT_EQ(c.split, Split::kStream);
  EXPECT_EQ(c.messages, (std::vector<Message>{{"system", "Be brief."}, {"user", "Capital?"}}));
  EXPECT_EQ(c.verify.type, VerifyType::kExact);
  EXPECT_EQ(c.verify.any_of, std::vector<std::string>{"Paris"});
  EXPECT_EQ(c.feedback.answer, "Paris");
  EXPECT_EQ(c.feedback.rule, "r");
  EXPECT_EQ(c.feedback.hint, "h");
  EXPECT_TRUE(c.is_volatile);
  EXPECT_TRUE(c.is_private);
  EXPECT_EQ(c.fault, "verifier");
}

TEST(CaseFromJson, RoundTripsEveryVerifyForm) {
  for (const char* verify : {
           R"({"type":"exact","any_of":["a","b"]})",
           R"({"type":"contains","any_of":["a"]})",
           R"({"type":"regex","pattern":"^a+$"})",
           R"({"type":"number","value":-1.5,"tolerance":0.01})",
           R"({"type":"choice","any_of":["B"],"choices":["A","B","C"]})",
           R"({"type":"tool_call","name":"f","arguments":{}})",
           R"({"type":"tool_call","name":"f","runtime_tools":["f","g"],"arguments":{
               "x":{"type":"integer","any_of":[1,2],"required":true},
               "y":{"type":"any","any_of":[null,{"k":[1]}],"required":false}}})",
       }) {
    SCOPED_TRACE(verify);
    const Json row = RowWith("/verify", verify);
    ASSERT_OK_AND_ASSIGN(const Case c, CaseFromJson(row));
    EXPECT_EQ(CaseToJson(c), row);
  }
}

TEST(CaseFromJson, RoundTripsEverySplit) {
  for (const char* split : {"stream", "query", "anchor", "test"}) {
    Json row = Row();
    row["split"] = split;
    ASSERT_OK_AND_ASSIGN(const Case c, CaseFromJson(row));
    EXPECT_STREQ(SplitName(c.split), split);
    EXPECT_EQ(CaseToJson(c), row);
  }
}

TEST(CaseFromJson, DefaultsAreThoseOfTheHeader) {
  ASSERT_OK_AND_ASSIGN(const Case number,
                       CaseFromJson(RowWith("/verify", R"({"type":"number","value":3})")));
  EXPECT_EQ(number.verify.number, 3);
  EXPECT_EQ(number.verify.tolerance, 0);
  ASSERT_OK_AND_ASSIGN(
      const Case call,
      CaseFromJson(RowWith(
          "/verify",
          R"({"type":"tool_call","name":"f","arguments":{"x":{"type":"any","any_of":[1]}}})")));
  EXPECT_TRUE(call.verify.arguments.at("x").required);
}

TEST(CaseFromJson, FeedbackMayBeAbsentOutsideTheStream) {
  Json row = RowWithout("feedback");
  EXPECT_THAT(CaseFromJson(row),
              StatusIs(absl::StatusCode::kInvalidArgument, "case q:1: case.feedback: missing"));
  row["split"] = "anchor";
  ASSERT_OK_AND_ASSIGN(const Case c, CaseFromJson(row));
  EXPECT_EQ(c.feedback.answer, "");
}

TEST(CaseFromJson, RefusesWrongRowsAndNamesTheField) {
  struct BadRow {
    std::string name;
    Json row;
    std::string message;
  };
  const std::string long_id = "\"" + std::string(201, 'a') + "\"";
  const std::vector<BadRow> rows = {
      {"no object", Json::array(), "case: expected an object"},
      {"unknown field", RowWith("/extra", "1"), "case q:1: case.extra: unknown field"},
      {"no id", RowWithout("id"), "case.id: missing"},
      {"empty id", RowWith("/id", "\"\""), "case.id: must be 1 to 200 bytes"},
      {"long id", RowWith("/id", long_id.c_str()), "case.id: must be 1 to 200 bytes"},
      {"id with a slash", RowWith("/id", "\"../x\""), "case.id: must be"},
      {"id with a blank", RowWith("/id", "\"a b\""), "case.id: must be"},
      {"cluster", RowWith("/cluster", "\"a/b\""), "case.cluster: must be"},
      {"split", RowWith("/split", "\"train\""), "case.split: unknown name \"train\""},
      {"no messages", RowWith("/messages", "[]"), "case q:1.messages: no user turn"},
      {"no user", RowWith("/messages", R"([{"role":"system","content":"x"}])"), "no user turn"},
      {"role", RowWith("/messages/1/role", "\"root\""), "messages[1].role: unknown name \"root\""},
      {"content", RowWith("/messages/1/content", "[]"), "messages[1].content: expected a string"},
      {"message field", RowWith("/messages/0/name", "\"x\""), "messages[0].name: unknown field"},
      {"verify type", RowWith("/verify/type", "\"vibes\""), "verify.type: unknown name"},
      {"field of another type", RowWith("/verify/pattern", "\"x\""),
       "verify.pattern: unknown field"},
      {"no accepted text", RowWith("/verify/any_of", "[]"), "verify.any_of: needs at least one"},
      {"empty text", RowWith("/verify/any_of", "[\"\"]"), "verify.any_of: holds an empty text"},
      {"regex", RowWith("/verify", R"({"type":"regex","pattern":"(a"})"),
       "verify.pattern: missing )"},
      {"look-ahead", RowWith("/verify", R"~({"type":"regex","pattern":"(?=a)"})~"),
       "verify.pattern: "},
      {"empty regex", RowWith("/verify", R"({"type":"regex","pattern":""})"),
       "verify.pattern: empty"},
      {"tolerance", RowWith("/verify", R"({"type":"number","value":1,"tolerance":-1})"),
       "negative"},
      {"value", RowWith("/verify", R"({"type":"number","value":"1"})"),
       "verify.value: expected a number"},
      {"choice", RowWith("/verify", R"({"type":"choice","any_of":["D"],"choices":["A","B"]})"),
       "verify.any_of: D is no choice"},
      {"twice", RowWith("/verify", R"({"type":"choice","any_of":["A"],"choices":["A","A"]})"),
       "verify.choices: a label stands twice"},
      {"tool name", RowWith("/verify", R"({"type":"tool_call","name":"","arguments":{}})"),
       "name: empty"},
      {"argument type", RowWith("/verify", R"({"type":"tool_call","name":"f","arguments":
          {"x":{"type":"float","any_of":[1]}}})"),
       "arguments.x.type: unknown name \"float\""},
      {"argument values", RowWith("/verify", R"({"type":"tool_call","name":"f","arguments":
          {"x":{"type":"any","any_of":[]}}})"),
       "arguments.x.any_of: needs at least one"},
      {"feedback field", RowWith("/feedback/why", "1"), "feedback.why: unknown field"},
      {"no answer", RowWith("/feedback", R"({"rule":"x"})"), "feedback.answer: missing"},
      {"volatile", RowWith("/volatile", "1"), "case.volatile: expected true or false"},
      {"fault", RowWith("/fault", "\"gremlin\""), "case.fault: must be tool or verifier"},
  };
  for (const BadRow& row : rows) {
    SCOPED_TRACE(row.name);
    EXPECT_THAT(CaseFromJson(row.row),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(row.message)));
  }
}

TEST(LastUserText, IsTheLastUserTurn) {
  Case c;
  EXPECT_EQ(LastUserText(c), "");
  c.messages = {{"user", "first"}, {"assistant", "a"}, {"user", "second"}, {"tool", "t"}};
  EXPECT_EQ(LastUserText(c), "second");
}

}  // namespace
}  // namespace evolora
