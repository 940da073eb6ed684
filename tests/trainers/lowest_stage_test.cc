#include "lowest_stage.h"

#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace evolora {
namespace {

TEST(LowestTrained, IsTheFirstStageOfTheFirstLayerThatTrainsSomething) {
  struct Row {
    std::string name;
    TrainedParts second_layer;
    Lowest expected;
  };
  const Row rows[] = {
      {"nothing", {}, {.layer = 3}},
      {"q k v", {.stages = {true, false, false, true}}, {.layer = 1, .stage = Stage::kQkv}},
      {"attention's output", {.stages = {false, true}}, {.layer = 1, .stage = Stage::kOut}},
      {"down", {.stages = {false, false, false, true}}, {.layer = 1, .stage = Stage::kDown}},
      {"input norm", {.input_norm = true}, {.layer = 1, .inside = false}},
      {"norms of q and k", {.head_norms = true}, {.layer = 1, .stage = Stage::kQkv}},
      // Its gradient needs the way through gate and up.
      {"the norm before the MLP",
       {.stages = {false, false, true}, .post_norm = true},
       {.layer = 1, .stage = Stage::kOut}},
  };
  for (const Row& row : rows) {
    SCOPED_TRACE(row.name);
    const std::vector<TrainedParts> layers = {{}, row.second_layer, {}};
    EXPECT_TRUE(LowestTrained(layers) == row.expected);
  }
}

TEST(LowestTrained, OfTwoAdaptersTheLowerOneCounts) {
  const Lowest input = {.layer = 1, .inside = false}, qkv = {.layer = 1, .stage = Stage::kQkv};
  EXPECT_LT(input, qkv);
  EXPECT_LT(qkv, (Lowest{.layer = 1, .stage = Stage::kDown}));
  EXPECT_LT((Lowest{.layer = 0, .stage = Stage::kDown}), input);
}

}  // namespace
}  // namespace evolora
