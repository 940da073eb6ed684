#include "evolora/trainers/recipe.h"

#include <string>
#include <vector>

#include "support/status_matchers.h"

namespace evolora {
namespace {

using ::evolora::testing::StatusIs;
using ::testing::HasSubstr;

TEST(Recipe, EmptyObjectGivesTheDefaults) {
  ASSERT_OK_AND_ASSIGN(const LoraRecipe recipe, ParseRecipe("{}"));
  EXPECT_EQ(recipe.rank, 16);
  EXPECT_EQ(recipe.alpha, 32);
  EXPECT_TRUE(recipe.target_modules.empty());
  EXPECT_EQ(recipe.schedule, LearningRateSchedule::kLinear);
  EXPECT_EQ(recipe.path, TrainingPath::kFast);
}

TEST(Recipe, JsonRoundTripKeepsEveryField) {
  LoraRecipe recipe;
  recipe.rank = 8;
  recipe.alpha = 8;
  recipe.target_modules = {"q_proj", "mlp.up_proj"};
  recipe.schedule = LearningRateSchedule::kCosine;
  recipe.warmup_ratio = 0.1;
  recipe.weight_decay = 0.01;
  recipe.max_steps = 7;
  recipe.seed = 42;
  recipe.path = TrainingPath::kReference;
  recipe.use_rslora = true;
  recipe.use_dora = true;
  recipe.exclude_modules = {"o_proj"};
  recipe.rank_pattern = {{"q_proj", 4}};
  recipe.alpha_pattern = {{"layers\\.0\\..*", 1.5}};
  recipe.lora_plus_ratio = 16;
  ASSERT_OK_AND_ASSIGN(const LoraRecipe back, RecipeFromJson(RecipeToJson(recipe)));
  EXPECT_EQ(RecipeToJson(back), RecipeToJson(recipe));
  recipe.use_dora = false;
  recipe.init_lora_weights = LoraInit::kPissa;
  recipe.lora_dropout = 0.25;
  ASSERT_OK_AND_ASSIGN(const LoraRecipe pissa, RecipeFromJson(RecipeToJson(recipe)));
  EXPECT_EQ(pissa.init_lora_weights, LoraInit::kPissa);
  EXPECT_EQ(pissa.lora_dropout, 0.25);
}

TEST(Recipe, RefusesWhatItDoesNotKnowOrCannotMean) {
  struct Row {
    const char* json;
    const char* message;
  };
  const std::vector<Row> rows = {
      {R"({"rnak": 8})", "rnak"},
      {R"({"rank": 0})", "recipe.rank: 0"},
      {R"({"rank": 513})", "recipe.rank: 513"},
      {R"({"rank": "8"})", "rank"},
      {R"({"schedule": "step"})", "'step'"},
      {R"({"learning_rate": -1})", "recipe.learning_rate: -1"},
      {R"({"replay_share": 1})", "recipe.replay_share: 1"},
      {R"({"path": "slow"})", "'slow'"},
      {R"({"rank_pattern": {"q_proj": 0}})", "recipe.rank_pattern: 0"},
      {R"({"rank_pattern": {"q_proj": 1.5}})", "'q_proj'"},
      {R"({"alpha_pattern": ["q_proj"]})", "alpha_pattern"},
      {R"({"lora_plus_ratio": 0})", "recipe.lora_plus_ratio: 0"},
      {R"({"epochs": 0})", "recipe.epochs: 0"},
      {R"({"use_dora": 1})", "use_dora"},
      {R"({"lora_dropout": 1})", "recipe.lora_dropout: 1"},
      {R"({"lora_dropout": 0.1, "use_dora": true})", "not computed with use_dora"},
      {R"({"init_lora_weights": "loftq"})", "'loftq'"},
      {R"({"init_lora_weights": "pissa", "use_dora": true})", "not with use_dora"},
      {R"([])", "recipe"},
  };
  for (const Row& row : rows) {
    SCOPED_TRACE(row.json);
    EXPECT_THAT(ParseRecipe(row.json),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(row.message)));
  }
}

TEST(Recipe, GreatestRankCountsPatternsAndTheStartThatIsTakenOff) {
  LoraRecipe recipe;
  EXPECT_EQ(GreatestRank(recipe), 16);
  recipe.rank_pattern = {{"q_proj", 24}, {"k_proj", 2}};
  EXPECT_EQ(GreatestRank(recipe), 24);
  recipe.init_lora_weights = LoraInit::kOlora;
  EXPECT_EQ(GreatestRank(recipe), 48);
}

TEST(LearningRate, FollowsHuggingFaceSchedules) {
  LoraRecipe recipe;
  recipe.learning_rate = 1.0;
  EXPECT_DOUBLE_EQ(LearningRateAt(recipe, 0, 10), 1.0);
  EXPECT_DOUBLE_EQ(LearningRateAt(recipe, 9, 10), 0.1);
  recipe.warmup_ratio = 0.2;  // two steps: the first one runs at rate 0
  EXPECT_DOUBLE_EQ(LearningRateAt(recipe, 0, 10), 0.0);
  EXPECT_DOUBLE_EQ(LearningRateAt(recipe, 1, 10), 0.5);
  EXPECT_DOUBLE_EQ(LearningRateAt(recipe, 2, 10), 1.0);
  EXPECT_DOUBLE_EQ(LearningRateAt(recipe, 6, 10), 0.5);
  recipe.warmup_ratio = 0;
  recipe.schedule = LearningRateSchedule::kCosine;
  EXPECT_DOUBLE_EQ(LearningRateAt(recipe, 0, 10), 1.0);
  EXPECT_NEAR(LearningRateAt(recipe, 5, 10), 0.5, 1e-12);
  recipe.schedule = LearningRateSchedule::kConstant;
  EXPECT_DOUBLE_EQ(LearningRateAt(recipe, 9, 10), 1.0);
}

}  // namespace
}  // namespace evolora
