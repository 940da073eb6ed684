#include "evolora/eval/verify.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "support/mutate.h"
#include "support/status_matchers.h"

namespace evolora {
namespace {

using ::evolora::testing::IsOk;
using ::evolora::testing::StatusIs;
using ::testing::HasSubstr;

VerifySpec Texts(VerifyType type, std::vector<std::string> any_of) {
  VerifySpec spec;
  spec.type = type;
  spec.any_of = std::move(any_of);
  return spec;
}

struct OutputRow {
  std::string output;
  bool right;
};

void ExpectRows(const VerifySpec& spec, const std::vector<OutputRow>& rows) {
  for (const OutputRow& row : rows) {
    SCOPED_TRACE(row.output);
    const Feedback feedback = Verify(spec, row.output);
    EXPECT_EQ(feedback.success, row.right) << feedback.detail;
    EXPECT_EQ(feedback.score, row.right ? 1 : 0);
    EXPECT_EQ(feedback.detail.empty(), row.right);
    EXPECT_FALSE(feedback.tool_error);
  }
}

TEST(Verify, ExactTrimsAndNothingElse) {
  ExpectRows(
      Texts(VerifyType::kExact, {"Paris", " Lutetia "}),
      {{" Paris\n", true}, {"Lutetia", true}, {"paris", false}, {"Paris.", false}, {"", false}});
}

TEST(Verify, ContainsFindsWholePhrasesWhateverTheCase) {
  ExpectRows(Texts(VerifyType::kContains, {"New York"}), {{"It is NEW\n york!", true},
                                                          {"**New York**", true},
                                                          {"New\xC2\xA0York", true},
                                                          {"New Yorker", false},
                                                          {"renew york", false},
                                                          {"New-York", false},
                                                          {"", false}});
  ExpectRows(Texts(VerifyType::kContains, {"caf"}), {{"caf\xC3\xA9", false}, {"a caf.", true}});
  ExpectRows(Texts(VerifyType::kContains, {"C++"}), {{"I like C++.", true}, {"C", false}});
  ExpectRows(Texts(VerifyType::kContains, {"it's"}), {{"it\xE2\x80\x99s", true}});
  ExpectRows(Texts(VerifyType::kContains, {"ab ab c"}), {{"ab ab ab c", true}});
}

TEST(Verify, RegexIsSearched) {
  VerifySpec spec;
  spec.type = VerifyType::kRegex;
  spec.pattern = R"(\b\d{4}-\d\d\b)";
  ExpectRows(spec, {{"on 2024-05 ok", true}, {"12024-05", false}, {"\xff", false}});
}

TEST(Verify, NumberTakesTheLastOne) {
  VerifySpec spec;
  spec.type = VerifyType::kNumber;
  const auto expect = [&](double number, const std::vector<OutputRow>& rows) {
    spec.number = number;
    SCOPED_TRACE(number);
    ExpectRows(spec, rows);
  };
  expect(42, {{"6 * 7 = 42", true},
              {"#### 42", true},
              {"42 then 43", false},
              {"42.", true},
              {"$42.00 in total", true},
              {"42km", true},
              {"v42", false},
              {"none", false},
              {"42 (see x2)", true}});
  expect(1234567.5, {{"$1,234,567.50", true}, {"1234567.5", true}, {"1,234,567.5%", true}});
  expect(234, {{"1,23 and 234", true}, {"12,34,234", false}, {"1,234", false}});
  expect(-3, {{"it is -3", true},
              {"it is \xE2\x88\x92"
               "3",
               true},
              {"10-3", false},
              {"f(x)-3", false},
              {"(-3)", true},
              {"x = -3.0", true}});
  expect(3, {{"10-3", true}, {"f(x)-3", true}});
  expect(2500, {{"2.5e3", true}, {"2.5E+3", true}, {"25e+2x", true}});
  expect(2, {{"2e", true}, {"1e999 or 2 or 1e999", true}});
  expect(0.5, {{".5", true}, {"-.5", false}, {"0.50", true}});
  spec.tolerance = 0.01;
  expect(3.14, {{"3.1415", true}, {"3.16", false}, {"3.131", true}});
}

TEST(Verify, ChoiceTakesTheFirstStandaloneLabel) {
  VerifySpec spec = Texts(VerifyType::kChoice, {"B"});
  spec.choices = {"A", "B", "C"};
  ExpectRows(spec, {{"B", true},
                    {"The answer is (B), not A.", true},
                    {"**B**", true},
                    {"b", false},
                    {"A or B", false},
                    {"Because", false},
                    {"a plan: B", true},
                    {"none", false}});
  spec.choices = {"yes", "no", "no way"};
  spec.any_of = {"no"};
  ExpectRows(spec, {{"No.", true}, {"NO", true}, {"nothing, yes", false}, {"no way", false}});
}

VerifySpec Weather() {
  VerifySpec spec;
  spec.type = VerifyType::kToolCall;
  spec.tool_name = "get_weather";
  spec.runtime_tools = {"get_weather", "get_time"};
  spec.arguments["city"] = {"string", {"Riga", "Riga, Latvia"}, true};
  spec.arguments["days"] = {"integer", {3, ""}, false};
  spec.arguments["level"] = {"number", {1.5, 2}, false};
  spec.arguments["fast"] = {"boolean", {true}, false};
  spec.arguments["tags"] = {"array", {Json::array({"a b", "c"}), Json::array()}, false};
  spec.arguments["where"] = {
      "object",
      {Json::parse(R"({"lat":[1,2],"name":["Old Town",""],"deep":[{"x":[5]},""]})")},
      false};
  spec.arguments["rows"] = {"array", {Json::parse(R"([{"k":[1,"one"]},{"k":[2]}])")}, false};
  spec.arguments["count"] = {"integer", {"", "n"}, false};
  spec.arguments["plain"] = {
      "object", {Json::parse(R"({"list":[[1,2]],"in":[{"l":[3]},""]})")}, false};
  return spec;
}

std::string Call(const std::string& arguments) {
  return absl::StrCat(R"({"name":"get_weather","arguments":{)", arguments, "}}");
}

TEST(VerifyToolCall, ComparesArgumentsAsBfclDoes) {
  struct Row {
    const char* arguments;  // after "city"
    const char* wrong;      // words of the detail; "" = right
  };
  const std::vector<Row> rows = {
      {"", ""},
      {R"("days":3)", ""},
      {R"("days":4)", "'days' is 4, expected one of"},
      {R"("days":3.0)", "must be of type integer, not a float"},
      {R"("days":"3")", "must be of type integer, not string"},
      {R"("days":true)", "must be of type integer, not boolean"},
      {R"("level":2)", ""},
      {R"("level":2.0)", ""},
      {R"("level":1.5)", ""},
      {R"("level":"1.5")", "must be of type number"},
      {R"("fast":true)", ""},
      {R"("fast":1)", "must be of type boolean"},
      {R"("fast":false)", "'fast' is false"},
      {R"("tags":["A-B","c"])", ""},
      {R"("tags":["c","a b"])", "'tags'"},
      {R"("tags":["a b"])", "'tags'"},
      {R"("tags":[])", ""},
      {R"("tags":"a b")", "must be of type array"},
      {R"("where":{"lat":2})", ""},
      {R"("where":{"lat":2.0,"name":"old town"})", ""},
      {R"("where":{"lat":1,"deep":{"x":5}})", ""},
      {R"("where":{"lat":1,"deep":{"x":6}})", "'where'"},
      {R"("where":{"lat":3})", "'where'"},
      {R"("where":{"name":"Old Town"})", "'where'"},
      {R"("where":{"lat":1,"other":1})", "'where'"},
      {R"("rows":[{"k":"ONE"},{"k":2}])", ""},
      {R"("rows":[{"k":2},{"k":1}])", "'rows'"},
      {R"("rows":[{"k":1}])", "'rows'"},
      {R"("count":"n")", ""},            // a variable's name where an integer is declared ...
      {R"("count":"N")", "'count' is"},  // ... and then only exactly
      {R"("count":5)", "'count' is 5"},
      {R"("plain":{"list":[1,2]})", ""},
      {R"("plain":{"list":1})", "'plain'"},
      {R"("plain":{"list":[[1,2]]})", "'plain'"},
      {R"("plain":{"list":[1,2],"in":{"l":[3]}})", ""},
      {R"("extra":1)", "unexpected argument 'extra'"},
  };
  for (const Row& row : rows) {
    SCOPED_TRACE(row.arguments);
    const std::string arguments =
        absl::StrCat(R"("city":"riga LATVIA")", *row.arguments == '\0' ? "" : ",", row.arguments);
    const Feedback feedback = Verify(Weather(), Call(arguments));
    EXPECT_EQ(feedback.success, *row.wrong == '\0') << feedback.detail;
    EXPECT_THAT(feedback.detail, HasSubstr(row.wrong));
    EXPECT_FALSE(feedback.tool_error);
  }
  EXPECT_THAT(Verify(Weather(), Call("")).detail, HasSubstr("'city' is missing"));
  VerifySpec quotes = Weather();
  quotes.arguments = {{"q", {"string", {"say \"hi\""}, true}}};
  EXPECT_TRUE(Verify(quotes, Call(R"("q":"Say 'hi'.")")).success);
  VerifySpec any = Weather();
  any.arguments = {{"q", {"any", {7}, true}}};
  EXPECT_TRUE(Verify(any, Call(R"("q":7)")).success);
}

TEST(VerifyToolCall, TheOutputIsOneCallAndNothingElse) {
  const std::string call = Call(R"("city":"Riga")");
  for (const std::string& output :
       {call, "\n " + call + "\n", "```json\n" + call + "\n```", "```\n" + call + "```",
        "<tool_call>\n" + call + "\n</tool_call>",
        "<tool_call>```json\n" + call + "```</tool_call>",
        "```json\n<tool_call>" + call + "</tool_call>\n```"}) {
    SCOPED_TRACE(output);
    EXPECT_TRUE(Verify(Weather(), output).success) << Verify(Weather(), output).detail;
  }
  const std::string deep = std::string(40, '[') + std::string(40, ']');
  const std::string two = "``````json" + call + "``````";
  for (const std::string& output :
       {std::string(), std::string("null"), call + call, "Sure! " + call, call + " Done.",
        "[" + call + "]", std::string(R"({"name":"get_weather"})"),
        std::string(R"({"name":"get_weather","arguments":[]})"),
        std::string(R"({"name":1,"arguments":{}})"),
        std::string(R"({"name":"get_weather","arguments":{"city":"Riga"},"id":1})"),
        std::string(R"({"name":"get_weather","name":"get_weather","arguments":{"city":"Riga"}})"),
        std::string(R"({'name':'get_weather','arguments':{'city':'Riga'}})"), two, "```" + call,
        Call("\"city\":" + deep), call.substr(1)}) {
    SCOPED_TRACE(output);
    const Feedback feedback = Verify(Weather(), output);
    EXPECT_FALSE(feedback.success);
    EXPECT_FALSE(feedback.detail.empty());
    EXPECT_FALSE(feedback.tool_error);
  }
}

TEST(VerifyToolCall, ACallTheRuntimeDoesNotKnowIsAToolError) {
  const Feedback unknown = Verify(Weather(), R"({"name":"weather","arguments":{}})");
  EXPECT_TRUE(unknown.tool_error);
  EXPECT_EQ(unknown.detail, "tool runtime: unknown function 'weather'");
  const Feedback other = Verify(Weather(), R"({"name":"get_time","arguments":{}})");
  EXPECT_FALSE(other.tool_error);
  EXPECT_THAT(other.detail, HasSubstr("'get_time' instead of 'get_weather'"));
  VerifySpec renamed = Weather();
  renamed.runtime_tools = {"get_weather_v2"};  // the runtime, not the answer, is at fault
  EXPECT_TRUE(Verify(renamed, Call(R"("city":"Riga")")).tool_error);
  VerifySpec silent = Weather();
  silent.runtime_tools.clear();
  EXPECT_TRUE(Verify(silent, R"({"name":"get_time","arguments":{}})").tool_error);
}

TEST(Verify, ABadSpecFailsWithTheVerifierNamed) {
  VerifySpec regex;
  regex.type = VerifyType::kRegex;
  regex.pattern = "(";
  VerifySpec number;
  number.type = VerifyType::kNumber;
  number.tolerance = -1;
  VerifySpec choice = Texts(VerifyType::kChoice, {"D"});
  choice.choices = {"A"};
  VerifySpec tool = Weather();
  tool.arguments["city"].type = "str";
  VerifySpec no_values = Weather();
  no_values.arguments["city"].any_of.clear();
  for (const VerifySpec& spec :
       {Texts(VerifyType::kExact, {}), Texts(VerifyType::kContains, {"  "}), regex, number, choice,
        tool, no_values}) {
    EXPECT_THAT(ValidateSpec(spec), StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("")));
    const Feedback feedback = Verify(spec, "x");
    EXPECT_FALSE(feedback.success);
    EXPECT_THAT(feedback.detail, HasSubstr("verifier: "));
  }
  EXPECT_THAT(ValidateSpec(Weather()), IsOk());
}

TEST(Verify, LongOutputsFail) {
  const std::string output(70000, ' ');
  EXPECT_THAT(Verify(Texts(VerifyType::kContains, {"a"}), output + "a").detail,
              HasSubstr("70001 bytes"));
}

TEST(Verify, NoOutputBreaksIt) {
  VerifySpec choice = Texts(VerifyType::kChoice, {"A"});
  choice.choices = {"A", "B"};
  VerifySpec number;
  number.type = VerifyType::kNumber;
  const std::vector<VerifySpec> specs = {Texts(VerifyType::kContains, {"Riga"}), choice, number,
                                         Weather()};
  testing::RunMutations(
      {"```json\n" + Call(R"("city":"Riga","where":{"lat":2,"deep":{"x":5}},"days":3)") + "\n```",
       "The answer is (B): -1,234.5e6 in \xE2\x80\x9CRiga\xE2\x80\x9D."},
      3000, 5, [&](const std::string& output) {
        for (const VerifySpec& spec : specs) {
          const Feedback feedback = Verify(spec, output);
          EXPECT_EQ(feedback.detail.empty(), feedback.success);
        }
        return absl::OkStatus();
      });
}

}  // namespace
}  // namespace evolora
