#include <algorithm>
#include <chrono>
#include <string>
#include <vector>

#include "evolora/core/random.h"
#include "evolora/core/trigger.h"
#include "support/status_matchers.h"

namespace evolora {
namespace {

using ::testing::HasSubstr;
using testing::IsOk;
using testing::StatusIs;

using Texts = std::vector<std::string>;

void ExpectTellsApart(const Trigger& trigger, const Texts& inside, const Texts& outside) {
  EXPECT_THAT(ValidateTrigger(trigger), IsOk());
  for (const std::string& text : inside) EXPECT_TRUE(Matches(trigger, text)) << text;
  for (const std::string& text : outside) EXPECT_FALSE(Matches(trigger, text)) << text;
}

TEST(DeriveTrigger, PicksTheFewestAndLongestSharedPhrases) {
  struct Row {
    std::string name;
    Texts inside, outside;
    Trigger expected;
  };
  const std::vector<Row> rows = {
      {"one long phrase",
       {"Please convert the price to EUR: 5", "Now CONVERT  the price to eur: 77"},
       {"what is the price", "convert miles"},
       {.all_of = {"convert the price to eur"}}},
      {"the longest of two",
       {"red fox jumps; blue whale", "blue whale. red fox jumps"},
       {"green frog"},
       {.all_of = {"red fox jumps"}}},
      {"one text is its own phrase",
       {"  Who wrote Faust?  "},
       {"Who wrote it"},
       {.all_of = {"who wrote faust"}}},
      {"a shorter phrase that tells is better than two longer ones",
       {"a long common prefix here, x zebra", "a long common prefix here, y zebra"},
       {"a long common prefix here, x horse"},
       {.all_of = {"zebra"}}},
      {"two phrases when one does not do",
       {"alpha one beta", "beta two alpha"},
       {"alpha", "beta"},
       {.all_of = {"alpha", "beta"}}},
      {"any_of when nothing is shared by all",
       {"fahrenheit 3", "4 fahrenheit", "celsius 3", "4 celsius"},
       {"kelvin 3", "4 kelvin"},
       {.any_of = {"fahrenheit", "celsius"}}},
      {"words count, not parts of words",
       {"category one thing", "the category thing"},
       {"thing"},
       {.all_of = {"category"}}},
      {"no outside texts", {"unit price of tea", "tea unit price"}, {}, {.all_of = {"unit price"}}},
  };
  for (const Row& row : rows) {
    SCOPED_TRACE(row.name);
    ASSERT_OK_AND_ASSIGN(const Trigger trigger, DeriveTrigger(row.inside, row.outside));
    EXPECT_EQ(trigger, row.expected) << CanonicalJson(TriggerToJson(trigger));
    ExpectTellsApart(trigger, row.inside, row.outside);
  }
}

TEST(DeriveTrigger, AnOutsideTextWithThePhraseInsideAWordCounts) {
  // "cats" is no phrase of the outside text, but as a substring it stands in "bobcats".
  EXPECT_THAT(DeriveTrigger(Texts{"cats", "two cats"}, Texts{"bobcats"}),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("no shared phrases")));
}

TEST(DeriveTrigger, IsNotFoundWhenNoPhraseTells) {
  const std::vector<std::pair<Texts, Texts>> rows = {
      {{"equal text", "equal text"}, {"Equal  TEXT"}},
      {{"apple", "pear"}, {"plum"}},           // one text's own word is not shared
      {{"is it a b", "a b is on"}, {"plum"}},  // shared words too short to mean anything
      {{"?", "?"}, {}},
      {{""}, {}},
  };
  for (const auto& [inside, outside] : rows) {
    SCOPED_TRACE(inside[0]);
    EXPECT_THAT(DeriveTrigger(inside, outside),
                StatusIs(absl::StatusCode::kNotFound, HasSubstr("")));
  }
}

TEST(DeriveTrigger, HoldsToMaxTerms) {
  const Texts inside = {"alpha 1 beta 2 gamma", "gamma 3 alpha 4 beta"};
  const Texts outside = {"alpha beta", "beta gamma", "alpha gamma"};
  EXPECT_FALSE(DeriveTrigger(inside, outside, 2).ok());
  ASSERT_OK_AND_ASSIGN(const Trigger trigger, DeriveTrigger(inside, outside, 3));
  EXPECT_EQ(trigger.all_of.size(), 3u);
  ExpectTellsApart(trigger, inside, outside);
}

TEST(DeriveTrigger, RefusesWrongArguments) {
  EXPECT_THAT(DeriveTrigger({}, Texts{"x"}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("inside")));
  EXPECT_THAT(DeriveTrigger(Texts{"long text"}, {}, 0),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("max_terms")));
  EXPECT_FALSE(DeriveTrigger(Texts{"long text"}, {}, 17).ok());
}

TEST(DeriveTrigger, KeepsPhrasesOfOtherScriptsWhole) {
  const Texts inside = {"\xd1\x86\xd0\xb5\xd0\xbd\xd0\xb0 1", "2 \xd1\x86\xd0\xb5\xd0\xbd\xd0\xb0"};
  ASSERT_OK_AND_ASSIGN(const Trigger trigger, DeriveTrigger(inside, Texts{"price"}));
  EXPECT_EQ(trigger.all_of, Texts{"\xd1\x86\xd0\xb5\xd0\xbd\xd0\xb0"});
}

// Random texts over a small vocabulary, with `phrase` somewhere when it is not empty.
Texts RandomTexts(int num_texts, int num_words, const std::string& phrase, Random& random) {
  Texts texts;
  for (int t = 0; t < num_texts; ++t) {
    std::string text;
    const uint64_t place = random.NextBelow(static_cast<uint64_t>(num_words));
    for (int w = 0; w < num_words; ++w) {
      if (static_cast<uint64_t>(w) == place) text += phrase + " ";
      text += "word" + std::to_string(random.NextBelow(400)) + " ";
    }
    texts.push_back(text);
  }
  return texts;
}

TEST(DeriveTrigger, DoesNotDependOnTheOrderOfTheTexts) {
  Random random(5);
  Texts inside = RandomTexts(20, 60, "word1 word2 word3", random);
  Texts outside = RandomTexts(40, 60, "", random);
  ASSERT_OK_AND_ASSIGN(const Trigger first, DeriveTrigger(inside, outside));
  std::reverse(inside.begin(), inside.end());
  std::rotate(outside.begin(), outside.begin() + 7, outside.end());
  ASSERT_OK_AND_ASSIGN(const Trigger second, DeriveTrigger(inside, outside));
  EXPECT_EQ(first, second);
  ExpectTellsApart(first, inside, outside);
}

TEST(DeriveTrigger, AHundredAgainstThreeHundredLongTextsTakeAMoment) {
  Random random(9);
  const Texts outside = RandomTexts(300, 280, "", random);  // about 2 KB each
  const Texts shared = RandomTexts(100, 280, "the quick brown fox", random);
  Texts split = RandomTexts(50, 280, "the quick brown fox", random);
  for (std::string& text : RandomTexts(50, 280, "one lazy dog", random)) split.push_back(text);
  const auto start = std::chrono::steady_clock::now();
  ASSERT_OK_AND_ASSIGN(const Trigger all_of, DeriveTrigger(shared, outside));
  ASSERT_OK_AND_ASSIGN(const Trigger any_of, DeriveTrigger(split, outside));
  EXPECT_THAT(DeriveTrigger(RandomTexts(100, 280, "", random), outside),
              StatusIs(absl::StatusCode::kNotFound, HasSubstr("")));
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - start;
  EXPECT_EQ(all_of.all_of, Texts{"the quick brown fox"});
  EXPECT_EQ(any_of.any_of.size(), 2u);
  // Under a second in a release build; sanitizers are up to twenty times slower.
  EXPECT_LT(seconds.count(), 20);
  RecordProperty("milliseconds", static_cast<int>(seconds.count() * 1000));
}

}  // namespace
}  // namespace evolora
