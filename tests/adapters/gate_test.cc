#include "evolora/adapters/gate.h"

#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "gate_cases.h"
#include "support/status_matchers.h"

namespace evolora {
namespace {

using ::evolora::testing::IsOk;
using ::evolora::testing::Pairs;
using ::evolora::testing::StatusIs;
using ::testing::HasSubstr;

constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;

struct JudgeRow {
  const char* name;
  std::vector<PairedOutcome> query;
  std::vector<PairedOutcome> anchor;
  ShiftMeasures shift;
  GateOutcome outcome;
  const char* reason;
};

TEST(Judge, Table) {
  const auto good_query = Pairs("q", 14, 0, 114);
  const auto good_anchor = Pairs("a", 0, 0, 104);
  const std::vector<JudgeRow> rows = {
      {"14 won, 0 lost of 128; 0 of 104 anchors lost",
       good_query,
       good_anchor,
       {},
       GateOutcome::kPass,
       "lower bound"},
      {"pass with measures inside the limits",
       good_query,
       good_anchor,
       {.mean_kl = 0.1, .norm_ratio = 0.2, .length_ratio = 1.1},
       GateOutcome::kPass,
       "anchor"},
      {"text patch that touches no anchor",
       good_query,
       Pairs("a", 0, 0, 104, 1, true),
       {},
       GateOutcome::kPass,
       "identical"},
      {"LoRA that loses 7 of 29 anchors",
       good_query,
       Pairs("a", 0, 7, 22),
       {},
       GateOutcome::kInconclusive,
       "anchor: 0 won, 7 lost of 29"},
      {"LoRA that loses a quarter of 128 anchors",
       good_query,
       Pairs("a", 0, 32, 96),
       {},
       GateOutcome::kFail,
       "above 0.05"},
      {"harm on query", Pairs("q", 0, 20, 30), good_anchor, {}, GateOutcome::kFail, "not above 0"},
      {"no difference anywhere",
       Pairs("q", 0, 0, 128),
       good_anchor,
       {},
       GateOutcome::kInconclusive,
       "undecided"},
      {"as many won as lost",
       Pairs("q", 12, 12, 104),
       good_anchor,
       {},
       GateOutcome::kInconclusive,
       "undecided"},
      {"no request changed",
       Pairs("q", 0, 0, 128, 1, true),
       Pairs("a", 0, 0, 104, 1, true),
       {},
       GateOutcome::kInconclusive,
       "no effect"},
      {"too few query pairs",
       Pairs("q", 9, 0, 0),
       good_anchor,
       {},
       GateOutcome::kInconclusive,
       "fewer than 10"},
      {"too few anchors",
       good_query,
       Pairs("a", 0, 0, 73),
       {},
       GateOutcome::kInconclusive,
       "74 pairs without a flip"},
      {"no anchors", good_query, {}, {}, GateOutcome::kInconclusive, "anchor"},
      {"nothing at all", {}, {}, {}, GateOutcome::kInconclusive, "query"},
      {"KL above the limit",
       good_query,
       good_anchor,
       {.mean_kl = 0.51},
       GateOutcome::kFail,
       "KL 0.51"},
      {"norm above the limit",
       good_query,
       good_anchor,
       {.norm_ratio = 0.6},
       GateOutcome::kFail,
       "norm ratio 0.6"},
      {"answers twice as long",
       good_query,
       good_anchor,
       {.length_ratio = 2.1},
       GateOutcome::kFail,
       "length ratio 2.1"},
      {"answers cut to a third",
       good_query,
       good_anchor,
       {.length_ratio = 0.33},
       GateOutcome::kFail,
       "length ratio 0.33"},
      {"anchor flips balance: net loss zero",
       good_query,
       Pairs("a", 4, 4, 392),
       {},
       GateOutcome::kPass,
       "won"},
  };
  for (const JudgeRow& row : rows) {
    SCOPED_TRACE(row.name);
    ASSERT_OK_AND_ASSIGN(const GateVerdict verdict, Judge(row.query, row.anchor, row.shift, {}));
    EXPECT_EQ(GateOutcomeName(verdict.outcome), std::string(GateOutcomeName(row.outcome)))
        << verdict.reason;
    EXPECT_THAT(verdict.reason, HasSubstr(row.reason));
  }
}

TEST(Judge, StopsAtTheFirstDecisionAndSaysHowManyPairsItSaw) {
  ASSERT_OK_AND_ASSIGN(const GateVerdict verdict,
                       Judge(Pairs("q", 100, 0, 100), Pairs("a", 0, 0, 500), {}, {}));
  EXPECT_EQ(verdict.outcome, GateOutcome::kPass);
  EXPECT_LT(verdict.query.pairs, 40);
  EXPECT_EQ(verdict.anchor.pairs, 74);
  EXPECT_GE(verdict.query.lower, 0);
  EXPECT_LE(verdict.anchor.upper, 0.05);
}

TEST(Judge, LooksAtNoAnchorAfterTheQueryFailed) {
  ASSERT_OK_AND_ASSIGN(const GateVerdict verdict,
                       Judge(Pairs("q", 0, 40, 0), Pairs("a", 0, 0, 104), {}, {}));
  EXPECT_EQ(verdict.outcome, GateOutcome::kFail);
  EXPECT_EQ(verdict.anchor.pairs, 0);
}

TEST(Judge, NegativeMinGainIsANonInferiorityMargin) {
  GatePolicy policy;
  policy.min_gain = -0.05;
  ASSERT_OK_AND_ASSIGN(const GateVerdict verdict,
                       Judge(Pairs("q", 0, 0, 128), Pairs("a", 0, 0, 104), {}, policy));
  EXPECT_EQ(verdict.outcome, GateOutcome::kPass);
}

// Undecided evidence depends on the counts only; the order decides no more than when a stop comes.
TEST(SequentialGate, UndecidedEvidenceDoesNotDependOnTheOrder) {
  std::string first;
  for (uint64_t seed = 1; seed <= 5; ++seed) {
    ASSERT_OK_AND_ASSIGN(SequentialGate gate, SequentialGate::Create({}));
    for (const auto& pair : Pairs("q", 3, 2, 60, seed))
      ASSERT_THAT(gate.ObserveQuery(pair), IsOk());
    for (const auto& pair : Pairs("a", 1, 1, 30, seed)) {
      ASSERT_THAT(gate.ObserveAnchor(pair), IsOk());
    }
    const std::string text = CanonicalJson(GateVerdictToJson(gate.Current()));
    if (first.empty()) first = text;
    EXPECT_EQ(text, first);
  }
}

TEST(SequentialGate, EvidenceFreezesAtTheFirstCrossing) {
  ASSERT_OK_AND_ASSIGN(SequentialGate gate, SequentialGate::Create({}));
  for (const auto& pair : Pairs("w", 10, 0, 0)) ASSERT_THAT(gate.ObserveQuery(pair), IsOk());
  EXPECT_FALSE(gate.WantsQuery());
  EXPECT_TRUE(gate.WantsAnchor());
  const GateVerdict before = gate.Current();
  for (const auto& pair : Pairs("l", 0, 50, 0)) ASSERT_THAT(gate.ObserveQuery(pair), IsOk());
  EXPECT_EQ(gate.Current().query, before.query);
  EXPECT_EQ(before.query.pairs, 10);
}

TEST(SequentialGate, DecidesNothingBeforeTheMinimumOfPairs) {
  ASSERT_OK_AND_ASSIGN(SequentialGate gate, SequentialGate::Create({}));
  const auto pairs = Pairs("q", 10, 0, 0);
  for (int i = 0; i < 9; ++i) ASSERT_THAT(gate.ObserveQuery(pairs[i]), IsOk());
  EXPECT_TRUE(gate.WantsQuery());
  ASSERT_THAT(gate.ObserveQuery(pairs[9]), IsOk());
  EXPECT_FALSE(gate.WantsQuery());
}

TEST(SequentialGate, CountsClusters) {
  ASSERT_OK_AND_ASSIGN(SequentialGate gate, SequentialGate::Create({}));
  ASSERT_THAT(gate.ObserveQuery({.case_id = "1", .cluster = "x", .candidate_right = true}), IsOk());
  ASSERT_THAT(gate.ObserveQuery({.case_id = "2", .cluster = "x", .champion_right = true}), IsOk());
  ASSERT_THAT(gate.ObserveQuery({.case_id = "3", .cluster = "y"}), IsOk());
  const auto clusters = gate.Current().query.clusters;
  EXPECT_EQ(clusters.at("x"), (ClusterCounts{.pairs = 2, .wins = 1, .losses = 1}));
  EXPECT_EQ(clusters.at("y"), (ClusterCounts{.pairs = 1}));
}

TEST(SequentialGate, RefusesContradictoryPairs) {
  ASSERT_OK_AND_ASSIGN(SequentialGate gate, SequentialGate::Create({}));
  EXPECT_THAT(gate.ObserveQuery({.case_id = ""}), StatusIs(kInvalid, HasSubstr("without a case")));
  EXPECT_THAT(
      gate.ObserveQuery({.case_id = "x", .champion_right = true, .identical_request = true}),
      StatusIs(kInvalid, HasSubstr("case x: identical request")));
  ASSERT_THAT(gate.ObserveQuery({.case_id = "y"}), IsOk());
  EXPECT_THAT(gate.ObserveAnchor({.case_id = "y"}),
              StatusIs(kInvalid, HasSubstr("case y was observed before")));
  EXPECT_THAT(gate.ObserveShift({.mean_kl = NAN}), StatusIs(kInvalid, HasSubstr("mean_kl")));
  EXPECT_THAT(gate.ObserveShift({.norm_ratio = -1}), StatusIs(kInvalid, HasSubstr("norm_ratio")));
}

TEST(GatePolicy, RefusesValuesOutsideTheirRange) {
  const std::vector<std::pair<const char*, std::function<void(GatePolicy&)>>> rows = {
      {"alpha", [](GatePolicy& p) { p.alpha = 0; }},
      {"alpha", [](GatePolicy& p) { p.alpha = NAN; }},
      {"min_gain", [](GatePolicy& p) { p.min_gain = 1; }},
      {"anchor_delta", [](GatePolicy& p) { p.anchor_delta = 0; }},
      {"min_query_pairs", [](GatePolicy& p) { p.min_query_pairs = 0; }},
      {"max_mean_kl", [](GatePolicy& p) { p.max_mean_kl = -1; }},
      {"max_norm_ratio", [](GatePolicy& p) { p.max_norm_ratio = NAN; }},
      {"min_length_ratio", [](GatePolicy& p) { p.min_length_ratio = 1.5; }},
      {"max_length_ratio", [](GatePolicy& p) { p.max_length_ratio = 0.5; }},
      {"finite", [](GatePolicy& p) { p.max_mean_kl = INFINITY; }},
  };
  for (const auto& [field, change] : rows) {
    GatePolicy policy;
    change(policy);
    EXPECT_THAT(SequentialGate::Create(policy).status(), StatusIs(kInvalid, HasSubstr(field)));
  }
}

TEST(AlphaForAttempt, SpendsNoMoreThanAlphaInAll) {
  double sum = 0;
  for (int64_t k = 1; k <= 100000; ++k) sum += AlphaForAttempt(0.05, k);
  EXPECT_LT(sum, 0.05);
  EXPECT_GT(sum, 0.0499);
}

GateVerdict SomeVerdict() {
  return *Judge(Pairs("q", 14, 1, 113), Pairs("a", 1, 1, 402), {.mean_kl = 0.25}, {});
}

TEST(GateVerdictJson, RoundTrips) {
  const Json json = GateVerdictToJson(SomeVerdict());
  ASSERT_OK_AND_ASSIGN(const GateVerdict back, GateVerdictFromJson(json));
  EXPECT_EQ(CanonicalJson(GateVerdictToJson(back)), CanonicalJson(json));
  EXPECT_EQ(back.outcome, GateOutcome::kPass);
  EXPECT_EQ(back.shift.mean_kl, 0.25);
  EXPECT_FALSE(back.shift.norm_ratio.has_value());
}

TEST(GateVerdictJson, RefusesWhatNoGateWrites) {
  const std::vector<std::pair<const char*, std::function<void(Json&)>>> rows = {
      {"outcome", [](Json& j) { j["outcome"] = "maybe"; }},
      {"schema", [](Json& j) { j["schema"] = 2; }},
      {"extra", [](Json& j) { j["extra"] = 1; }},
      {"reason", [](Json& j) { j.erase("reason"); }},
      {"exceed pairs", [](Json& j) { j["query"]["wins"] = 5000; }},
      {"clusters do not add up", [](Json& j) { j["query"]["clusters"]["c"]["pairs"] = 64; }},
      {"estimate", [](Json& j) { j["anchor"]["estimate"] = 0.01; }},
      {"bounds", [](Json& j) { j["anchor"]["lower"] = 0.9; }},
      {"negative measure", [](Json& j) { j["shift"]["mean_kl"] = -0.5; }},
      {"alpha", [](Json& j) { j["policy"]["alpha"] = 2; }},
      {"lower bound too low", [](Json& j) { j["query"]["lower"] = -0.1; }},
      {"upper bound too high", [](Json& j) { j["anchor"]["upper"] = 0.06; }},
      {"too few pairs", [](Json& j) { j["policy"]["min_query_pairs"] = 4000; }},
      {"outside the limits", [](Json& j) { j["shift"]["mean_kl"] = 3; }},
  };
  for (const auto& [why, change] : rows) {
    Json json = GateVerdictToJson(SomeVerdict());
    change(json);
    EXPECT_THAT(GateVerdictFromJson(json), StatusIs(kInvalid, HasSubstr(why)));
  }
}

}  // namespace
}  // namespace evolora
