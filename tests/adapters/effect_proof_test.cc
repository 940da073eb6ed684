#include "evolora/adapters/effect_proof.h"

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "support/status_matchers.h"

namespace evolora {
namespace {

using ::evolora::testing::IsOk;
using ::evolora::testing::StatusIs;
using ::testing::HasSubstr;

constexpr auto kInvalid = absl::StatusCode::kInvalidArgument;

EffectProof SampleProof() {
  EffectProof proof;
  proof.base_weights_fingerprint = std::string(64, 'b');
  proof.adapter_digest = std::string(64, 'a');
  proof.tolerance = 0.01;
  const float base[] = {1, 2, 3, 4, 5, 0}, adapted[] = {1, 2.5, 6, 4.25, 0, 0};
  proof.probes.push_back(MakeEffectProbe({7, 8}, base, adapted, 2).value());
  const float base_2[] = {0.1f, 0.2f, 0.3f}, adapted_2[] = {0.1f, 0.2f, 0.4f};
  proof.probes.push_back(MakeEffectProbe({9}, base_2, adapted_2, 3).value());
  return proof;
}

using Answers = std::vector<std::vector<TokenLogit>>;

Answers AnswersOf(const EffectProof& proof, bool adapted, float shift = 0) {
  Answers answers;
  for (const EffectProbe& probe : proof.probes) {
    answers.push_back(adapted ? probe.adapted_top : probe.base_top);
    for (TokenLogit& item : answers.back()) item.logit += shift;
  }
  return answers;
}

TEST(EffectProbe, ListsTheUnionOfBothTopSets) {
  const EffectProbe probe = SampleProof().probes[0];
  EXPECT_EQ(probe.base_top, (std::vector<TokenLogit>{{4, 5}, {3, 4}, {2, 3}}));
  EXPECT_EQ(probe.adapted_top, (std::vector<TokenLogit>{{2, 6}, {3, 4.25}, {4, 0}}));
  EXPECT_EQ(probe.max_abs_delta, 5);
}

TEST(EffectProbe, UnusableRowsAreRefused) {
  const float row[] = {1, 2, 3}, bad[] = {1, NAN, 3};
  EXPECT_THAT(MakeEffectProbe({}, row, row, 2), StatusIs(kInvalid, HasSubstr("no prompt")));
  EXPECT_THAT(MakeEffectProbe({1}, row, row, 1), StatusIs(kInvalid, HasSubstr("k = 1")));
  EXPECT_THAT(MakeEffectProbe({1}, row, row, 4), StatusIs(kInvalid, HasSubstr("k = 4")));
  EXPECT_THAT(MakeEffectProbe({1}, row, {row, 2}, 2), StatusIs(kInvalid, HasSubstr("3 and 2")));
  EXPECT_THAT(MakeEffectProbe({1}, row, bad, 2), StatusIs(kInvalid, HasSubstr("logit 1")));
}

TEST(EffectProof, SurvivesJsonExactly) {
  const EffectProof proof = SampleProof();
  ASSERT_OK_AND_ASSIGN(const Json json, ParseJson(EffectProofToJson(proof).dump(2)));
  ASSERT_OK_AND_ASSIGN(const EffectProof read, EffectProofFromJson(json));
  EXPECT_EQ(EffectProofToJson(read), EffectProofToJson(proof));
  EXPECT_EQ(read.probes[1].adapted_top, proof.probes[1].adapted_top);
  EXPECT_EQ(read.tolerance, proof.tolerance);
}

TEST(EffectProof, JsonIsReadStrictly) {
  const std::function<void(Json&)> breaks[] = {
      [](Json& j) { j["extra"] = 1; },
      [](Json& j) { j.erase("tolerance"); },
      [](Json& j) { j["format"] = "evolora-effect-proof/2"; },
      [](Json& j) { j["probes"][0]["prompt_ids"][0] = -1; },
      [](Json& j) { j["probes"][0]["prompt_ids"][0] = 1.5; },
      [](Json& j) { j["probes"][0]["base_top"][0] = Json::array({1}); },
      [](Json& j) { j["probes"][0]["base_top"][0][0] = 4294967296; },
      [](Json& j) { j["probes"][0]["base_top"][0][1] = 1e300; },
      [](Json& j) { j["probes"][0]["x"] = 0; },
      [](Json& j) { j["probes"][0] = Json::array(); },
  };
  for (const auto& change : breaks) {
    Json json = EffectProofToJson(SampleProof());
    change(json);
    SCOPED_TRACE(json.dump());
    EXPECT_THAT(EffectProofFromJson(json), StatusIs(kInvalid, ::testing::_));
  }
}

TEST(EffectProof, OneThatCannotTellIsNoProof) {
  struct Row {
    const char* message;
    std::function<void(EffectProof&)> breaks;
  };
  const Row rows[] = {
      {"SHA-256", [](EffectProof& p) { p.adapter_digest = "x"; }},
      {"SHA-256", [](EffectProof& p) { p.base_weights_fingerprint = ""; }},
      {"tolerance 0", [](EffectProof& p) { p.tolerance = 0; }},
      {"tolerance", [](EffectProof& p) { p.tolerance = NAN; }},
      {"no probes", [](EffectProof& p) { p.probes.clear(); }},
      {"no prompt", [](EffectProof& p) { p.probes[1].prompt_ids.clear(); }},
      {"probe 1: prompt id -2", [](EffectProof& p) { p.probes[1].prompt_ids[0] = -2; }},
      {"the same ids", [](EffectProof& p) { p.probes[0].base_top.pop_back(); }},
      {"the same ids", [](EffectProof& p) { p.probes[0].base_top[0].id = 5; }},
      {"id 3 twice", [](EffectProof& p) { p.probes[0].base_top[0].id = 3; }},
      {"with logit inf", [](EffectProof& p) { p.probes[0].base_top[0].logit = INFINITY; }},
      {"max_abs_delta -1", [](EffectProof& p) { p.probes[0].max_abs_delta = -1; }},
      {"move by at most", [](EffectProof& p) { p.tolerance = 10; }},
      {"move by at most",  // a shift of all logits is no effect
       [](EffectProof& p) {
         for (EffectProbe& probe : p.probes) {
           probe.adapted_top = probe.base_top;
           for (TokenLogit& item : probe.adapted_top) item.logit += 3;
         }
       }},
  };
  EXPECT_THAT(ValidateEffectProof(SampleProof()), IsOk());
  for (const Row& row : rows) {
    SCOPED_TRACE(row.message);
    EffectProof proof = SampleProof();
    row.breaks(proof);
    EXPECT_THAT(ValidateEffectProof(proof), StatusIs(kInvalid, HasSubstr(row.message)));
  }
}

TEST(JudgeEffect, TellsTheThreeCasesApart) {
  const EffectProof proof = SampleProof();
  Answers other = AnswersOf(proof, true);
  other[1][0].logit += 0.02f;
  Answers half = AnswersOf(proof, true);  // only one layer group was applied, say
  half[0] = proof.probes[0].base_top;
  const struct {
    const char* name;
    Answers answers;
    EffectVerdict verdict;
  } rows[] = {
      {"adapted", AnswersOf(proof, true), EffectVerdict::kOk},
      {"adapted within tolerance", AnswersOf(proof, true, 0.009f), EffectVerdict::kOk},
      {"base", AnswersOf(proof, false), EffectVerdict::kLoadNoEffect},
      {"base within tolerance", AnswersOf(proof, false, -0.009f), EffectVerdict::kLoadNoEffect},
      {"one logit off", other, EffectVerdict::kWrongAdapter},
      {"one probe like the base", half, EffectVerdict::kWrongAdapter},
      {"all shifted", AnswersOf(proof, true, 5), EffectVerdict::kWrongAdapter},
  };
  for (const auto& row : rows) {
    SCOPED_TRACE(row.name);
    ASSERT_OK_AND_ASSIGN(const EffectJudgement judged, JudgeEffect(proof, row.answers));
    EXPECT_EQ(judged.verdict, row.verdict) << judged.reason;
    EXPECT_EQ(judged.num_compared, 6);
    EXPECT_THAT(judged.reason, HasSubstr(EffectVerdictName(row.verdict)));
  }
}

TEST(JudgeEffect, LogprobsAreComparedUpToAShift) {
  const EffectProof proof = SampleProof();
  ASSERT_OK_AND_ASSIGN(const EffectJudgement ok,
                       JudgeEffect(proof, AnswersOf(proof, true, -7), LogitKind::kLogprobs));
  EXPECT_EQ(ok.verdict, EffectVerdict::kOk) << ok.reason;
  ASSERT_OK_AND_ASSIGN(const EffectJudgement none,
                       JudgeEffect(proof, AnswersOf(proof, false, -7), LogitKind::kLogprobs));
  EXPECT_EQ(none.verdict, EffectVerdict::kLoadNoEffect) << none.reason;
}

TEST(JudgeEffect, IdsOutsideTheProbeAreIgnored) {
  const EffectProof proof = SampleProof();
  Answers answers = AnswersOf(proof, true);
  answers[0].push_back({999, 77});
  answers[0].erase(answers[0].begin());
  ASSERT_OK_AND_ASSIGN(const EffectJudgement judged, JudgeEffect(proof, answers));
  EXPECT_EQ(judged.verdict, EffectVerdict::kOk);
  EXPECT_EQ(judged.num_compared, 5);
}

TEST(JudgeEffect, AnswersThatCannotDecideAreRefused) {
  const EffectProof proof = SampleProof();
  const auto judge = [&](const std::function<void(Answers&)>& change) {
    Answers answers = AnswersOf(proof, true);
    change(answers);
    return JudgeEffect(proof, answers);
  };
  EXPECT_THAT(judge([](Answers& a) { a.pop_back(); }), StatusIs(kInvalid, HasSubstr("1 of 2")));
  EXPECT_THAT(judge([](Answers& a) { a[1].resize(1); }),
              StatusIs(kInvalid, HasSubstr("answer 1: 1")));
  EXPECT_THAT(judge([](Answers& a) { a[1][0].id = a[1][1].id; }),
              StatusIs(kInvalid, HasSubstr("twice")));
  EXPECT_THAT(judge([](Answers& a) { a[1][0].logit = NAN; }), StatusIs(kInvalid, HasSubstr("nan")));
  // Ids that the adapter hardly moves: nothing can be told from them.
  EffectProof flat = proof;
  flat.probes.pop_back();
  flat.probes[0] = {{1}, {{1, 5}, {2, 4}, {3, 3}}, {{1, 5}, {2, 4}, {3, 2}}, 1};
  EXPECT_THAT(JudgeEffect(flat, Answers{{{1, 5}, {2, 4}}}),
              StatusIs(kInvalid, HasSubstr("cannot tell adapter from base")));
}

}  // namespace
}  // namespace evolora
