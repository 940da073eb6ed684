#include "adapter_plan.h"

#include <cmath>
#include <map>

#include "model/random_model.h"
#include "support/status_matchers.h"

namespace evolora {
namespace {

using ::evolora::testing::SmallConfig;
using ::evolora::testing::StatusIs;
using ::testing::HasSubstr;

std::map<std::string, PlannedModule> Plan(const LoraRecipe& recipe) {
  const auto modules = PlanModules(SmallConfig(), recipe);
  EXPECT_TRUE(modules.ok()) << modules.status();
  std::map<std::string, PlannedModule> by_path;
  for (const PlannedModule& module : *modules) by_path[module.path] = module;
  return by_path;
}

TEST(PlanModules, TakesEveryLinearLayerUnlessNamed) {
  EXPECT_EQ(Plan({.rank = 2}).size(), static_cast<size_t>(7 * SmallConfig().num_layers));
  const auto named = Plan({.rank = 2,
                           .target_modules = {"self_attn.q_proj", "down_proj"},
                           .exclude_modules = {"model.layers.1.mlp.down_proj"}});
  EXPECT_EQ(named.count("model.layers.1.self_attn.q_proj"), 1u);
  EXPECT_EQ(named.count("model.layers.0.mlp.down_proj"), 1u);
  EXPECT_EQ(named.count("model.layers.1.mlp.down_proj"), 0u);
  EXPECT_EQ(named.count("model.layers.0.self_attn.k_proj"), 0u);
}

TEST(PlanModules, PatternsAndRsLoraSetRankAndScale) {
  const auto plan = Plan({.rank = 4,
                          .alpha = 8,
                          .use_rslora = true,
                          .rank_pattern = {{"q_proj", 1}, {"layers\\.1\\.mlp\\..*", 2}},
                          .alpha_pattern = {{"up_proj", 3}}});
  EXPECT_EQ(plan.at("model.layers.0.self_attn.q_proj").rank, 1);
  EXPECT_DOUBLE_EQ(plan.at("model.layers.0.self_attn.q_proj").scale, 8);
  EXPECT_EQ(plan.at("model.layers.0.mlp.up_proj").rank, 4);
  EXPECT_DOUBLE_EQ(plan.at("model.layers.0.mlp.up_proj").scale, 1.5);
  EXPECT_EQ(plan.at("model.layers.1.mlp.up_proj").rank, 2);
  EXPECT_DOUBLE_EQ(plan.at("model.layers.1.mlp.up_proj").scale, 3 / std::sqrt(2.0));
  EXPECT_DOUBLE_EQ(plan.at("model.layers.1.self_attn.o_proj").scale, 4);
}

TEST(PlanModules, RefusesWhatWouldBeIgnoredOrGuessed) {
  struct Row {
    LoraRecipe recipe;
    const char* message;
  };
  const Row rows[] = {
      {{.rank = 2, .target_modules = {"c_attn"}}, "'c_attn' matches no linear layer"},
      {{.rank = 2, .exclude_modules = {"lm_head"}}, "exclude_modules: 'lm_head' matches no"},
      {{.rank = 2, .target_modules = {"q_proj"}, .rank_pattern = {{"k_proj", 1}}},
       "rank_pattern: 'k_proj' matches no adapted layer"},
      {{.rank = 2, .alpha_pattern = {{"layers.0.*", 1}, {"q_proj", 2}}}, "disagree on"},
      {{.rank = 400}, "recipe.rank 400 exceeds layer"},
      {{.rank = 2, .target_modules = {"q_proj"}, .exclude_modules = {"q_proj"}},
       "leaves no linear layer"}};
  for (const Row& row : rows) {
    EXPECT_THAT(PlanModules(SmallConfig(), row.recipe),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(row.message)));
  }
  EXPECT_THAT(PlanModules(SmallConfig(), {.rank = 2, .rank_pattern = {{"(?=q)", 1}}}),
              StatusIs(absl::StatusCode::kUnimplemented, HasSubstr("(?=q)")));
}

}  // namespace
}  // namespace evolora
