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

TEST(ParseTrainingRows, PairsOfADpoFileKeepBothAnswers) {
  ASSERT_OK_AND_ASSIGN(
      const auto rows,
      ParseTrainingRows("{\"chosen_ids\":[1,2,3],\"chosen_labels\":[-100,2,3],"
                        "\"rejected_ids\":[1,4],\"rejected_labels\":[-100,4],\"replay\":true}",
                        IdsOnlyBase(), ObjectiveKind::kDpo));
  ASSERT_EQ(rows.size(), 1u);
  EXPECT_EQ(rows[0].ids, (std::vector<TokenId>{1, 2, 3}));
  EXPECT_EQ(rows[0].labels, (std::vector<TokenId>{kIgnoreLabel, 2, 3}));
  EXPECT_EQ(rows[0].counterpart.ids, (std::vector<TokenId>{1, 4}));
  EXPECT_EQ(rows[0].counterpart.labels, (std::vector<TokenId>{kIgnoreLabel, 4}));
  EXPECT_TRUE(rows[0].replay);
}

TEST(ParseTrainingRows, NamesWhatAPairLacks) {
  struct Row {
    const char* text;
    absl::StatusCode code;
    const char* message;
  };
  const auto invalid = absl::StatusCode::kInvalidArgument;
  const std::vector<Row> rows = {
      {"{\"ids\":[1,2],\"labels\":[1,2]}", invalid, "line 1: row.chosen: missing"},
      {"\n{\"chosen_ids\":[1,2],\"chosen_labels\":[1,2]}", invalid,
       "line 2: row.rejected_ids: missing"},
      {"{\"chosen_ids\":[1,2],\"chosen_labels\":[1,2],\"rejected_ids\":[1,2],"
       "\"rejected_labels\":[1,2]}",
       invalid, "chosen and rejected are the same"},
      {"{\"chosen_ids\":[1,2],\"chosen_labels\":[1,2],\"rejected_ids\":[1,40],"
       "\"rejected_labels\":[1,2]}",
       invalid, "rejected_ids[1]: 40"},
      {"{\"prompt\":\"a\",\"chosen\":\"b\",\"rejected\":\"c\",\"completion\":\"d\"}", invalid,
       "completion"},
      {"{\"prompt\":\"a\",\"chosen\":\"b\",\"rejected\":\"c\"}",
       absl::StatusCode::kFailedPrecondition, "no tokenizer"},
  };
  const BaseModel base = IdsOnlyBase();
  for (const Row& row : rows) {
    SCOPED_TRACE(row.text);
    EXPECT_THAT(ParseTrainingRows(row.text, base, ObjectiveKind::kDpo),
                StatusIs(row.code, HasSubstr(row.message)));
  }
}

TEST(ParseTrainingRows, RowsOfADistillFileKeepWhatTheTeacherSees) {
  ASSERT_OK_AND_ASSIGN(
      const auto rows,
      ParseTrainingRows("{\"ids\":[1,2],\"labels\":[-100,2],\"teacher_ids\":[5,1,2],"
                        "\"teacher_labels\":[-100,-100,2]}",
                        IdsOnlyBase(), ObjectiveKind::kDistill));
  ASSERT_EQ(rows.size(), 1u);
  EXPECT_EQ(rows[0].ids, (std::vector<TokenId>{1, 2}));
  EXPECT_EQ(rows[0].counterpart.ids, (std::vector<TokenId>{5, 1, 2}));
  EXPECT_EQ(rows[0].counterpart.labels, (std::vector<TokenId>{kIgnoreLabel, kIgnoreLabel, 2}));
}

TEST(ParseTrainingRows, RowsOfAPolicyFileKeepWhatIsKnownOfTheSample) {
  ASSERT_OK_AND_ASSIGN(
      const auto rows,
      ParseTrainingRows("{\"ids\":[1,2,3],\"labels\":[1,2,3],\"reward\":1.5,\"group\":\"a\","
                        "\"old_logprobs\":[-0.5,0]}\n"
                        "{\"ids\":[1,2],\"labels\":[-100,2],\"advantage\":-2}",
                        IdsOnlyBase(), ObjectiveKind::kPolicy));
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[0].sample.reward, 1.5);
  EXPECT_EQ(rows[0].sample.group, "a");
  EXPECT_FALSE(rows[0].sample.advantage.has_value());
  EXPECT_EQ(rows[0].sample.old_log_probs, (std::vector<float>{-0.5f, 0.0f}));
  EXPECT_EQ(rows[1].sample.advantage, -2);
  EXPECT_TRUE(rows[1].sample.old_log_probs.empty());
  TrainingRow other = rows[0];
  other.sample.old_log_probs[0] = -0.6f;
  EXPECT_NE(TrainingRowsDigest({other}), TrainingRowsDigest({rows[0]}));
  other = rows[0];
  other.sample.reward = 2;
  EXPECT_NE(TrainingRowsDigest({other}), TrainingRowsDigest({rows[0]}));
}

TEST(ParseTrainingRows, NamesWhatASampleOrAHintedRowLacks) {
  struct Row {
    ObjectiveKind objective;
    const char* text;
    const char* message;
  };
  const ObjectiveKind policy = ObjectiveKind::kPolicy, distill = ObjectiveKind::kDistill;
  const std::vector<Row> rows = {
      {policy, "{\"ids\":[1,2],\"labels\":[1,2]}", "line 1: row.reward: missing"},
      {policy, "{\"ids\":[1,2],\"labels\":[1,2],\"reward\":1}", "row.group: missing"},
      {policy, "{\"ids\":[1,2],\"labels\":[1,2],\"advantage\":1,\"reward\":1}", "reward"},
      {policy, "{\"ids\":[1,2],\"labels\":[1,2],\"advantage\":1,\"old_logprobs\":[-1,-1]}",
       "row.old_logprobs: 2 values for 1 labels"},
      {policy, "{\"ids\":[1,2],\"labels\":[1,2],\"advantage\":1,\"old_logprobs\":[0.5]}",
       "0.5 is no log-probability"},
      {policy, "{\"messages\":[],\"advantage\":1}", "row.ids: missing"},
      {distill, "{\"ids\":[1,2],\"labels\":[1,2]}", "row.teacher_ids: missing"},
      {distill, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}]}", "row.hint: missing"},
      {distill, "{\"messages\":[{\"role\":\"user\",\"content\":\"a\"}],\"hint\":\"b\"}",
       "the last turn is not the assistant's"},
      {distill, "{\"prompt\":\"a\",\"completion\":\"b\"}", "row.teacher_prompt: missing"},
  };
  const BaseModel base = IdsOnlyBase();
  for (const Row& row : rows) {
    SCOPED_TRACE(row.text);
    EXPECT_THAT(ParseTrainingRows(row.text, base, row.objective),
                StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr(row.message)));
  }
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
  TrainingRow pair = a;
  pair.counterpart = {.ids = {1, 3}, .labels = {kIgnoreLabel, 3}};
  EXPECT_NE(TrainingRowsDigest({pair}), TrainingRowsDigest({a}));
}

}  // namespace
}  // namespace evolora
