#include "evolora/core/json.h"

#include <string>
#include <vector>

#include "support/status_matchers.h"

namespace evolora {
namespace {

using ::testing::HasSubstr;
using testing::IsOk;
using ::testing::StartsWith;
using testing::StatusIs;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

TEST(ParseJson, RefusesHostileTextAndSaysWhere) {
  struct Row {
    std::string name, text, where, why;
  };
  const std::vector<Row> rows = {
      {"empty", "", "line 1, column 1: ", "unexpected end of input"},
      {"two values", "1 2", "line 1, column 3: ", "unexpected number literal"},
      {"trailing comma", "[1,\n 2,]", "line 2, column 4: ", "unexpected ']'"},
      {"comment", "/* x */ 1", "line 1, column 1: ", "invalid literal"},
      {"single quotes", "{'a':1}", "line 1, column 2: ", "invalid literal"},
      {"NaN", "[NaN]", "line 1, column 2: ", "invalid literal"},
      {"infinity", "-Infinity", "line 1, column 2: ", "invalid number"},
      {"leading zero", "01", "line 1, column 2: ", "unexpected number literal"},
      {"plus sign", "+1", "line 1, column 1: ", "invalid literal"},
      {"bare fraction", ".5", "line 1, column 1: ", "invalid literal"},
      {"overflow", "[\n1e999]", "line 2, column ", "number overflow"},
      {"unclosed", "{\"a\": [1", "line 1, column 9: ", "unexpected end of input"},
      {"unclosed string", "\"abc", "line 1, column 5: ", "missing closing quote"},
      {"raw control byte", "\"a\nb\"", "line 1, column 3: ", "control character"},
      {"NUL ends nothing", std::string("{}\0{}", 5), "line 1, column 3: ", "NUL byte"},
      {"NUL in a string", std::string("\"a\0\"", 4), "line 1, column 3: ", "NUL byte"},
      {"lone surrogate", "\"\\ud800\"", "line 1, column ", "surrogate"},
      {"bad UTF-8", "\"\xff\"", "line 1, column 2: ", "ill-formed UTF-8"},
      {"overlong UTF-8", "\"\xc0\xaf\"", "line 1, column 2: ", "ill-formed UTF-8"},
      {"UTF-8 surrogate", "\"\xed\xa0\x80\"", "line 1, column 3: ", "ill-formed UTF-8"},
      {"duplicate key", "{\"a\": 1,\n  \"a\": 2}", "line 2, column 3: ", "duplicate key \"a\""},
      {"duplicate by escape", "{\"a\": 1, \"\\u0061\": 2}", "line 1, column 10: ", "duplicate key"},
      {"duplicate with quotes", "{\"\\\"\":1, \"\\\"\":2}", "line 1, column 10: ", "duplicate key"},
      {"duplicate empty key", "{\"\":1,\"\":2}", "line 1, column 7: ", "duplicate key \"\""},
      {"duplicate deep", "[{\"x\":{\"b\":1,\"b\":1}}]",
       "line 1, column 14: ", "duplicate key \"b\""},
  };
  for (const Row& row : rows) {
    SCOPED_TRACE(row.name);
    EXPECT_THAT(ParseJson(row.text),
                StatusIs(kInvalid, ::testing::AllOf(StartsWith(row.where), HasSubstr(row.why))));
    EXPECT_FALSE(ParseOrderedJson(row.text).ok());
  }
}

TEST(ParseJson, EqualKeysOfDifferentObjectsAreFine) {
  EXPECT_THAT(ParseJson(R"([{"a": 1}, {"a": {"a": 2}}])"), IsOk());
}

TEST(ParseJson, CountsLevelsOfNesting) {
  const JsonLimits limits{.max_bytes = 100, .max_depth = 3};
  EXPECT_THAT(ParseJson("[[{}]]", limits), IsOk());
  EXPECT_THAT(ParseJson("[[{\"a\":[]}]]", limits),
              StatusIs(kInvalid, "line 1, column 8: nested deeper than 3 levels"));
  EXPECT_THAT(ParseJson("[[[]],[[]],[[]],[[]]]", limits), IsOk());
}

TEST(ParseJson, AMillionBracketsAreRefusedAndNotFollowed) {
  EXPECT_THAT(ParseJson(std::string(1000000, '[')), StatusIs(kInvalid, HasSubstr("64 levels")));
}

TEST(ParseJson, RefusesTextAboveTheLimit) {
  const JsonLimits limits{.max_bytes = 4, .max_depth = 3};
  EXPECT_THAT(ParseJson("1234", limits), IsOk());
  EXPECT_THAT(ParseJson("12345", limits),
              StatusIs(kInvalid, HasSubstr("5 bytes of JSON, the limit is 4")));
}

TEST(ParseJson, MessagesStayShortAndValidUtf8) {
  const absl::Status status = ParseJson("\"" + std::string(100000, 'x') + "\xff").status();
  EXPECT_LT(status.message().size(), 400u);
  const std::string message(status.message());
  EXPECT_EQ(ReplaceInvalidUtf8(message), message);
  const std::string key(100000, 'k');
  EXPECT_LT(ParseJson("{\"" + key + "\":1,\"" + key + "\":2}").status().message().size(), 400u);
}

TEST(ParseOrderedJson, KeepsTheOrderOfTheFile) {
  ASSERT_OK_AND_ASSIGN(const OrderedJson json, ParseOrderedJson(R"({"b": 1, "a": 2})"));
  EXPECT_EQ(json.begin().key(), "b");
}

TEST(CanonicalJson, IsEqualForEqualValues) {
  const std::vector<std::pair<std::string, std::string>> rows = {
      {R"( { "b" : [ 1 , 2 ] , "a" : null } )", R"({"a":null,"b":[1,2]})"},
      {"1.0", "1"},
      {"1e0", "1"},
      {"-0.0", "0"},
      {"-0", "0"},
      {"100e-1", "10"},
      {"0.1", "0.1"},
      {"1e21", "1e+21"},
      {"1e-7", "1e-07"},
      {"5e-324", "5e-324"},
      {"1.7976931348623157e308", "1.7976931348623157e+308"},
      {"9007199254740993", "9007199254740993"},
      {"18446744073709551615", "18446744073709551615"},
      {"-9223372036854775808", "-9223372036854775808"},
      {"9223372036854775808.0", "9223372036854775808"},
      {"true", "true"},
      {"[]", "[]"},
      {"{}", "{}"},
      {R"("\u00e9\/\n\u0001\"")", "\"\xc3\xa9/\\n\\u0001\\\"\""},
  };
  for (const auto& [text, expected] : rows) {
    SCOPED_TRACE(text);
    ASSERT_OK_AND_ASSIGN(const Json json, ParseJson(text));
    EXPECT_EQ(CanonicalJson(json), expected);
    ASSERT_OK_AND_ASSIGN(const Json again, ParseJson(expected));
    EXPECT_EQ(CanonicalJson(again), expected);
    EXPECT_EQ(again, json);
  }
}

TEST(CanonicalJson, SortsKeysByUnsignedByte) {
  EXPECT_EQ(CanonicalJson(Json{{"\xc3\xa9", 1}, {"z", 2}, {"A", 3}}),
            "{\"A\":3,\"z\":2,\"\xc3\xa9\":1}");
}

TEST(CanonicalJsonDeathTest, RefusesWhatHasNoText) {
  EXPECT_DEATH(CanonicalJson(Json("\xff")), "UTF-8");
  EXPECT_DEATH(CanonicalJson(Json(0.0 / 0.0)), "NaN");
}

TEST(DisplayJson, ReplacesInvalidUtf8) {
  EXPECT_EQ(DisplayJson(Json{{"a", "x\xff"}}), "{\"a\":\"x\xef\xbf\xbd\"}");
}

TEST(ReplaceInvalidUtf8, KeepsValidTextAndMarksTheRest) {
  EXPECT_EQ(ReplaceInvalidUtf8(""), "");
  EXPECT_EQ(ReplaceInvalidUtf8(std::string("a\0\"\\\n\x7f", 6)), std::string("a\0\"\\\n\x7f", 6));
  EXPECT_EQ(ReplaceInvalidUtf8("\xf0\x9f\x98\x80"), "\xf0\x9f\x98\x80");
  EXPECT_EQ(ReplaceInvalidUtf8("a\xe2\x82"), "a\xef\xbf\xbd");  // cut in the middle of a euro sign
  EXPECT_EQ(ReplaceInvalidUtf8("\xff\xfe"), "\xef\xbf\xbd\xef\xbf\xbd");
}

TEST(JsonFields, ReadsEveryType) {
  ASSERT_OK_AND_ASSIGN(const Json json, ParseJson(R"({"s":"x","i":-3,"n":2.5,"b":true,"o":{"k":1},
      "a":[1],"t":["p","q"],"any":null})"));
  JsonFields fields(json, "row");
  EXPECT_EQ(fields.String("s"), "x");
  EXPECT_EQ(fields.Integer("i", -3, 3), -3);
  EXPECT_EQ(fields.Number("n"), 2.5);
  EXPECT_EQ(fields.Number("i"), -3);
  EXPECT_TRUE(fields.Bool("b"));
  EXPECT_EQ(fields.Object("o").at("k"), 1);
  EXPECT_EQ(fields.Array("a").size(), 1u);
  EXPECT_EQ(fields.StringArray("t"), (std::vector<std::string>{"p", "q"}));
  EXPECT_TRUE(fields.Any("any").is_null());
  EXPECT_TRUE(fields.Has("any"));
  EXPECT_FALSE(fields.Has("none"));
  EXPECT_EQ(fields.OptionalString("none"), std::nullopt);
  EXPECT_EQ(fields.OptionalInteger("none", 0, 1), std::nullopt);
  EXPECT_EQ(fields.OptionalNumber("none"), std::nullopt);
  EXPECT_EQ(fields.OptionalBool("none"), std::nullopt);
  EXPECT_THAT(fields.Done(), IsOk());
}

TEST(JsonFields, NamesPathAndReasonOfTheError) {
  ASSERT_OK_AND_ASSIGN(
      const Json json,
      ParseJson(R"({"s":1,"i":3.0,"big":18446744073709551615,"n":null,"t":["a",2]})"));
  struct Row {
    std::string name;
    std::function<void(JsonFields&)> read;
    std::string message;
  };
  const std::vector<Row> rows = {
      {"missing", [](JsonFields& f) { f.String("x"); }, "row.x: missing"},
      {"wrong type", [](JsonFields& f) { f.String("s"); },
       "row.s: expected a string, found number"},
      {"3.0 is no integer", [](JsonFields& f) { f.Integer("i", 0, 9); },
       "row.i: expected an integer, found 3.0"},
      {"range", [](JsonFields& f) { f.Integer("s", 2, 9); }, "row.s: 1 is not in [2, 9]"},
      {"unsigned does not wrap", [](JsonFields& f) { f.Integer("big", -9, 9); },
       "row.big: 18446744073709551615 is not in [-9, 9]"},
      {"null is a type", [](JsonFields& f) { f.OptionalNumber("n"); },
       "row.n: expected a number, found null"},
      {"element", [](JsonFields& f) { f.StringArray("t"); },
       "row.t: [1]: expected a string, found number"},
      {"own", [](JsonFields& f) { f.Fail("s", "odd"); }, "row.s: odd"},
  };
  for (const Row& row : rows) {
    SCOPED_TRACE(row.name);
    JsonFields fields(json, "row");
    row.read(fields);
    fields.Fail("later", "is not reported");
    EXPECT_THAT(fields.status(), StatusIs(kInvalid, row.message));
    EXPECT_THAT(fields.Done(), StatusIs(kInvalid, row.message));
  }
}

TEST(JsonFields, DoneReportsKeysNobodyAskedFor) {
  const Json json = {{"a", 1}, {"extra", 2}};
  JsonFields fields(json, "row");
  fields.Number("a");
  EXPECT_THAT(fields.Done(), StatusIs(kInvalid, "row.extra: unknown field"));
}

TEST(JsonFields, AskingInVainDoesNotExcuseATypo) {
  const Json json = {{"anser", "x"}};
  JsonFields fields(json, "row");
  fields.OptionalString("answer");
  EXPECT_THAT(fields.Done(), StatusIs(kInvalid, "row.anser: unknown field"));
}

TEST(JsonFields, AValueThatIsNoObjectGivesDefaultsAndOneError) {
  const Json json = Json::array();
  JsonFields fields(json, "row");
  EXPECT_EQ(fields.String("a"), "");
  EXPECT_TRUE(fields.Object("o").empty());
  EXPECT_THAT(fields.Done(), StatusIs(kInvalid, "row: expected an object, found array"));
}

}  // namespace
}  // namespace evolora
