#include "evolora/trainers/recipe.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
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
  recipe.init_lora_weights = LoraInit::kKaiming;
  for (const WeightStorage storage : {WeightStorage::kBf16, WeightStorage::kQ4}) {
    recipe.base_weights = storage;
    ASSERT_OK_AND_ASSIGN(const LoraRecipe compact, RecipeFromJson(RecipeToJson(recipe)));
    EXPECT_EQ(compact.base_weights, storage);
  }
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
      {R"({"objective": "ppo"})", "'ppo' is not one of sft, distill, dpo, policy"},
      {R"({"dpo_beta": 0.1})", "recipe.dpo_beta: the objective 'sft' does not use it"},
      {R"({"reference": "base"})", "recipe.reference: the objective 'sft' does not use it"},
      {R"({"objective": "dpo", "max_cut_share": 0.1})", "recipe.max_cut_share: no row of"},
      {R"({"objective": "dpo", "dpo_beta": 0})", "recipe.dpo_beta: 0"},
      {R"({"objective": "dpo", "dpo_label_smoothing": 0.5})", "recipe.dpo_label_smoothing: 0.5"},
      {R"({"objective": "dpo", "policy_clip_low": 0.1})", "the objective 'dpo' does not use it"},
      {R"({"objective": "distill", "distill_top_k": -1})", "recipe.distill_top_k: -1"},
      {R"({"objective": "distill", "distill_top_k": 1.5})", "distill_top_k"},
      {R"({"objective": "distill", "distill_temperature": 0})", "recipe.distill_temperature: 0"},
      {R"({"objective": "policy", "policy_loss": "ppo"})", "'ppo' is not one of grpo, cispo"},
      {R"({"objective": "policy", "policy_mean": "rows"})", "'rows' is not one of tokens"},
      {R"({"objective": "policy", "policy_loss": "cispo", "policy_clip_low": 0.1})",
       "recipe.policy_clip_low: the other keys of the objective leave it without effect"},
      {R"({"objective": "policy", "reference": "base"})",
       "recipe.reference: the other keys of the objective leave it without effect"},
      {R"({"objective": "policy", "policy_scale_rewards": 1})", "policy_scale_rewards"},
      {R"({"objective": "dpo", "reference": "other"})", "'other' is not one of base, init"},
      {R"({"base_weights": "nf4"})", "'nf4' is not one of fp32, bf16, int8, q4"},
      {R"({"base_weights": "q4", "use_dora": true})", "q4 is not for use_dora"},
      {R"({"base_weights": "bf16", "init_lora_weights": "pissa"})",
       "bf16 is not for init_lora_weights"},
      {R"({"modules_to_save": ["norm"], "objective": "dpo"})", "not with the objective dpo"},
      {R"({"modules_to_save": ["norm"], "lora_plus_ratio": 2})", "not with lora_plus_ratio"},
      {R"({"modules_to_save": ["norm"], "weight_decay": 0.1})", "not with weight_decay"},
      {R"({"modules_to_save": ["norm"], "init_lora_weights": "olora"})",
       "not with another init_lora_weights"},
      {R"({"modules_to_save": "norm"})", "modules_to_save"},
      {R"({"precision": "fp16"})", "'fp16' is not one of fp32, bf16-autocast, bf16"},
      {R"({"precision": "bf16", "path": "reference", "use_dora": true})",
       "bf16 is not computed with use_dora"},
      {R"({"precision": "bf16-autocast", "modules_to_save": ["norm"]})",
       "bf16-autocast is not computed with modules_to_save"},
      {R"([])", "recipe"},
  };
  for (const Row& row : rows) {
    SCOPED_TRACE(row.json);
    EXPECT_THAT(ParseRecipe(row.json),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(row.message)));
  }
}

TEST(Recipe, TheMethodFullHasNoKeysOfAdapters) {
  ASSERT_OK_AND_ASSIGN(
      const LoraRecipe recipe,
      ParseRecipe(R"({"method": "full", "weight_decay": 0.1, "objective": "dpo"})"));
  EXPECT_EQ(recipe.method, TrainingMethod::kFull);
  const Json json = RecipeToJson(recipe);
  EXPECT_FALSE(json.contains("rank"));
  ASSERT_OK_AND_ASSIGN(const LoraRecipe back, RecipeFromJson(json));
  EXPECT_EQ(RecipeToJson(back), json);
  for (const char* key :
       {R"("rank": 16)", R"("alpha": 32)", R"("use_rslora": false)", R"("use_dora": true)",
        R"("lora_dropout": 0)", R"("target_modules": [])", R"("exclude_modules": ["k_proj"])",
        R"("modules_to_save": ["norm"])", R"("rank_pattern": {})", R"("alpha_pattern": {})",
        R"("init_lora_weights": "pissa")", R"("lora_plus_ratio": 1)"}) {
    EXPECT_THAT(ParseRecipe(absl::StrCat(R"({"method": "full", )", key, "}")),
                StatusIs(absl::StatusCode::kInvalidArgument,
                         HasSubstr("the method 'full' does not use it")))
        << key;
  }
  EXPECT_THAT(ParseRecipe(R"({"method": "qlora"})"),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("not one of lora, full")));
}

TEST(Recipe, GreatestRankCountsPatternsAndTheStartThatIsTakenOff) {
  LoraRecipe recipe;
  EXPECT_EQ(GreatestRank(recipe), 16);
  recipe.rank_pattern = {{"q_proj", 24}, {"k_proj", 2}};
  EXPECT_EQ(GreatestRank(recipe), 24);
  recipe.init_lora_weights = LoraInit::kOlora;
  EXPECT_EQ(GreatestRank(recipe), 48);
}

TEST(Recipe, KeysOfTheObjectiveMakeTheRoundTrip) {
  for (const char* const text :
       {R"({"objective": "dpo", "dpo_beta": 0.3, "dpo_label_smoothing": 0.1, "reference": "init"})",
        R"({"objective": "distill", "distill_top_k": 64, "distill_temperature": 2.5})",
        R"({"objective": "policy", "policy_loss": "cispo", "policy_mean": "sequences",
            "policy_clip_high": 4, "policy_scale_rewards": false, "policy_kl_beta": 0.1,
            "reference": "init"})",
        R"({"objective": "policy", "policy_clip_low": 0.1})"}) {
    SCOPED_TRACE(text);
    ASSERT_OK_AND_ASSIGN(const LoraRecipe recipe, ParseRecipe(text));
    const Json json = RecipeToJson(recipe);
    ASSERT_OK_AND_ASSIGN(const Json given, ParseJson(text));
    for (const auto& [key, value] : given.items()) EXPECT_EQ(json[key], value) << key;
    ASSERT_OK_AND_ASSIGN(const LoraRecipe back, RecipeFromJson(json));
    EXPECT_EQ(RecipeToJson(back), json);
  }
  EXPECT_EQ(RecipeToJson(LoraRecipe())["objective"], "sft");
  EXPECT_FALSE(RecipeToJson(LoraRecipe()).contains("dpo_beta"));
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
