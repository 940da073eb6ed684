#include "evolora/trainers/training_data.h"

#include <memory>
#include <string>
#include <vector>

#include "model/random_model.h"
#include "support/status_matchers.h"

namespace evolora {
namespace {

using ::evolora::testing::StatusIs;
using ::testing::HasSubstr;

// A base of 32 ids without a tokenizer.
BaseModel IdsOnlyBase() {
  LlamaConfig config = testing::SmallConfig();
  config.vocab_size = 32;
  BaseModel base;
  base.weights = testing::RandomWeights(config, 1);
  return base;
}

TEST(ParseTrainingRows, TakesIdsAndLabelsAsTheyAre) {
  ASSERT_OK_AND_ASSIGN(const auto rows,
                       ParseTrainingRows("{\"ids\":[1,2,3],\"labels\":[-100,2,3]}\n\n"
                                         "{\"ids\":[4,5],\"labels\":[-100,5],\"replay\":true}\n",
                                         IdsOnlyBase()));
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[0].ids, (std::vector<TokenId>{1, 2, 3}));
  EXPECT_EQ(rows[0].labels, (std::vector<TokenId>{kIgnoreLabel, 2, 3}));
  EXPECT_FALSE(rows[0].replay);
  EXPECT_TRUE(rows[1].replay);
}

TEST(ParseTrainingRows, NamesLineAndFault) {
  struct Row {
    const char* text;
    absl::StatusCode code;
    const char* message;
  };
  const std::vector<Row> rows = {
      {"{\"ids\":[1,2],\"labels\":[1]}", absl::StatusCode::kInvalidArgument, "ids has 2 entries"},
      {"\n{\"ids\":[1,32],\"labels\":[1,2]}", absl::StatusCode::kInvalidArgument,
       "line 2: ids[1]: 32"},
      {"{\"ids\":[1,2],\"labels\":[1,-1]}", absl::StatusCode::kInvalidArgument, "labels[1]: -1"},
      {"{\"ids\":[1,2],\"labels\":[1,2],\"x\":1}", absl::StatusCode::kInvalidArgument, "x"},
      {"{}", absl::StatusCode::kInvalidArgument, "messages, or prompt"},
      {"{\"ids\":", absl::StatusCode::kInvalidArgument, "line 1"},
      {"{\"prompt\":\"a\",\"completion\":\"b\"}", absl::StatusCode::kFailedPrecondition,
       "no tokenizer"},
  };
  const BaseModel base = IdsOnlyBase();
  for (const Row& row : rows) {
    SCOPED_TRACE(row.text);
    EXPECT_THAT(ParseTrainingRows(row.text, base), StatusIs(row.code, HasSubstr(row.message)));
  }
}

TEST(ParseTrainingRows, RowsRememberTheirLine) {
  ASSERT_OK_AND_ASSIGN(const auto rows,
                       ParseTrainingRows("\n{\"ids\":[1,2],\"labels\":[-100,2]}\n\n"
                                         "{\"ids\":[4,5],\"labels\":[-100,5]}\n",
                                         IdsOnlyBase()));
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[0].line, 2);
  EXPECT_EQ(rows[1].line, 4);
}

TEST(TrainingRowsDigest, SeesIdsLabelsReplayAndOrder) {
  const TrainingRow a{.ids = {1, 2}, .labels = {kIgnoreLabel, 2}};
  TrainingRow b = a;
  b.labels[1] = 3;
  TrainingRow c = a;
  c.replay = true;
  const std::string digest = TrainingRowsDigest({a, b});
  EXPECT_EQ(TrainingRowsDigest({a, b}), digest);
  EXPECT_NE(TrainingRowsDigest({b, a}), digest);
  EXPECT_NE(TrainingRowsDigest({c, b}), digest);
  EXPECT_NE(TrainingRowsDigest({a}), digest);
}

}  // namespace
}  // namespace evolora
