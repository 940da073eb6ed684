#include "evolora/core/trigger.h"

#include <string>
#include <vector>

#include "support/status_matchers.h"

namespace evolora {
namespace {

using ::testing::HasSubstr;
using testing::IsOk;
using testing::StatusIs;

TEST(RequestText, IsSystemAndUserTurnsOnly) {
  const std::vector<Message> messages = {
      {"system", "S"}, {"user", "U1"}, {"assistant", "A"}, {"tool", "T"}, {"user", "U2"}};
  EXPECT_EQ(RequestText(messages), "S\nU1\nU2");
  EXPECT_EQ(RequestText({}), "");
}

TEST(Matches, EveryPartThatIsSetMustHold) {
  struct Row {
    std::string name;
    Trigger trigger;
    std::string text;
    bool expected;
  };
  const std::vector<Row> rows = {
      {"nothing set", {}, "anything", false},
      {"all", {.all = true}, "", true},
      {"all_of holds", {.all_of = {"a b", "c"}}, "xa bx c", true},
      {"all_of misses one", {.all_of = {"a b", "c"}}, "a b", false},
      {"any_of one", {.any_of = {"x", "c"}}, "abc", true},
      {"any_of none", {.any_of = {"x", "y"}}, "abc", false},
      {"none_of alone", {.none_of = {"x"}}, "abc", true},
      {"none_of vetoes", {.all_of = {"a"}, .none_of = {"c"}}, "abc", false},
      {"case folds both ways", {.all_of = {"UNIT Price"}}, "the unit pRICE", true},
      {"white space folds both ways", {.all_of = {"unit \n price"}}, "unit\t\tprice", true},
      {"non-ASCII case does not fold", {.all_of = {"\xc3\x89"}}, "\xc3\xa9", false},
      {"regex is searched", {.regex = "unit (price|cost)"}, "The UNIT  cost is", true},
      {"regex case folds", {.regex = "^THE"}, "the", true},
      {"regex and text both", {.any_of = {"dog"}, .regex = "cat"}, "cat", false},
  };
  for (const Row& row : rows) {
    SCOPED_TRACE(row.name);
    ASSERT_THAT(ValidateTrigger(row.trigger), IsOk());
    EXPECT_EQ(Matches(row.trigger, row.text), row.expected);
  }
}

TEST(ValidateTrigger, RefusesWhatCannotMean) {
  const std::vector<std::pair<Trigger, std::string>> rows = {
      {{.all = true, .any_of = {"x"}}, "trigger.all: stands alone"},
      {{.all = true, .regex = "x"}, "trigger.all: stands alone"},
      {{.all_of = {""}}, "trigger.all_of: an empty term"},
      {{.any_of = {" \n"}}, "trigger.any_of: an empty term"},
      {{.none_of = {std::string(4097, 'x')}}, "4097 bytes, the limit is 4096"},
      {{.any_of = std::vector<std::string>(65, "x")}, "65 terms, the limit is 64"},
      {{.regex = "(a"}, "trigger.regex: missing )"},
      {{.regex = "(?=a)"}, "trigger.regex: invalid perl operator"},
      {{.regex = "((a{100}){100}){100}"}, "trigger.regex: "},
      {{.regex = std::string(2001, 'a')}, "2001 bytes, the limit is 2000"},
  };
  for (const auto& [trigger, message] : rows) {
    SCOPED_TRACE(message);
    EXPECT_THAT(ValidateTrigger(trigger),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(message)));
  }
}

TEST(Matches, ARegexThatBacktrackingEnginesCannotFinishIsFast) {
  EXPECT_FALSE(Matches({.regex = "(a*)*b"}, std::string(100000, 'a')));
}

TEST(TriggerJson, RoundTripsAndIsStrict) {
  for (const Trigger& trigger :
       {Trigger{}, Trigger{.all = true},
        Trigger{.all_of = {"a"}, .any_of = {"b", "c"}, .none_of = {"d"}, .regex = "e"}}) {
    ASSERT_OK_AND_ASSIGN(const Trigger read, TriggerFromJson(TriggerToJson(trigger), "scope"));
    EXPECT_EQ(read, trigger);
  }
  EXPECT_THAT(TriggerFromJson({{"every", true}}, "scope"),
              StatusIs(absl::StatusCode::kInvalidArgument, "scope.every: unknown field"));
  EXPECT_THAT(TriggerFromJson({{"regex", "("}}, "scope"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("scope: trigger.regex")));
}

}  // namespace
}  // namespace evolora
