#include "evolora/adapters/gate_consolidation.h"

#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "support/status_matchers.h"

namespace evolora {
namespace {

using ::evolora::testing::StatusIs;
using ::testing::HasSubstr;

// How many cases of a set answer right in exactly these cells, e.g. {"pb", 10}: patches_only and
// both.
using Group = std::pair<std::string, int>;

std::vector<FactorialOutcome> Cases(const std::string& prefix, const std::vector<Group>& groups) {
  std::vector<FactorialOutcome> out;
  for (const auto& [cells, count] : groups) {
    for (int i = 0; i < count; ++i) {
      const auto has = [&, &cells = cells](char c) { return cells.find(c) != std::string::npos; };
      out.push_back({.case_id = absl::StrCat(prefix, out.size()),
                     .neither = has('n'),
                     .patches_only = has('p'),
                     .adapter_only = has('a'),
                     .both = has('b')});
    }
  }
  return out;
}

struct Row {
  const char* name;
  std::vector<Group> query;
  std::vector<Group> anchor;
  ConsolidationAction action;
};

TEST(JudgeConsolidation, Table) {
  const std::vector<Row> rows = {
      {"adapter does what the patches did",
       {{"pab", 60}, {"", 40}},
       {{"npab", 100}},
       ConsolidationAction::kRetirePatches},
      {"adapter adds beside the patches only",
       {{"pb", 40}, {"b", 30}, {"", 30}},
       {{"npab", 100}},
       ConsolidationAction::kKeepBoth},
      {"patches still add to the adapter, both beat patches",
       {{"pab", 40}, {"ab", 30}, {"b", 20}, {"", 10}},
       {{"npab", 100}},
       ConsolidationAction::kKeepBoth},
      {"adapter alone loses anchors, beside the patches it gains",
       {{"pab", 50}, {"ab", 30}, {"", 20}},
       {{"npab", 90}, {"npb", 20}},
       ConsolidationAction::kKeepBoth},
      {"adapter harms both ways",
       {{"p", 60}, {"", 40}},
       {{"np", 40}, {"npab", 60}},
       ConsolidationAction::kKeepPatches},
      {"neither lever does anything",
       {{"npab", 50}, {"", 50}},
       {{"npab", 100}},
       ConsolidationAction::kInconclusive},
      {"too few query cases", {{"pab", 9}}, {{"npab", 100}}, ConsolidationAction::kInconclusive},
      {"too few anchors",
       {{"pab", 60}, {"", 40}},
       {{"npab", 30}},
       ConsolidationAction::kInconclusive},
      {"adapter alone forgets some of what the patches taught",
       {{"pab", 50}, {"p", 8}, {"", 42}},
       {{"npab", 100}},
       ConsolidationAction::kInconclusive},
  };
  for (const Row& row : rows) {
    SCOPED_TRACE(row.name);
    ASSERT_OK_AND_ASSIGN(
        const ConsolidationVerdict verdict,
        JudgeConsolidation(Cases("q", row.query), Cases("a", row.anchor), GatePolicy{}));
    EXPECT_EQ(ConsolidationActionName(verdict.action),
              std::string(ConsolidationActionName(row.action)))
        << verdict.reason;
  }
}

TEST(JudgeConsolidation, ReportsCellsAndInteraction) {
  ASSERT_OK_AND_ASSIGN(const ConsolidationVerdict verdict,
                       JudgeConsolidation(Cases("q", {{"pab", 60}, {"n", 10}, {"", 30}}),
                                          Cases("a", {{"npab", 10}}), GatePolicy{}));
  EXPECT_EQ(verdict.query.pairs, 100);
  EXPECT_EQ(verdict.query.neither, 10);
  EXPECT_EQ(verdict.query.both, 60);
  // (both - adapter) - (patches - neither) = 0 - 50
  EXPECT_DOUBLE_EQ(verdict.query.interaction, -0.5);
  EXPECT_EQ(verdict.query.adapter_vs_nothing.wins, 60);
  EXPECT_EQ(verdict.query.adapter_vs_nothing.losses, 10);
  EXPECT_EQ(ConsolidationVerdictToJson(verdict)["action"], ConsolidationActionName(verdict.action));
}

TEST(JudgeConsolidation, BecomesAGateVerdictThatItsReaderAccepts) {
  ASSERT_OK_AND_ASSIGN(
      const ConsolidationVerdict verdict,
      JudgeConsolidation(Cases("q", {{"pab", 100}}), Cases("a", {{"npab", 100}}), GatePolicy{}));
  ASSERT_EQ(verdict.action, ConsolidationAction::kRetirePatches);
  const GateVerdict retire = AsGateVerdict(verdict, ConsolidationAction::kRetirePatches);
  EXPECT_EQ(retire.outcome, GateOutcome::kPass);
  ASSERT_OK_AND_ASSIGN(const GateVerdict back, GateVerdictFromJson(GateVerdictToJson(retire)));
  EXPECT_EQ(back.policy.min_gain, -0.05);
  EXPECT_EQ(AsGateVerdict(verdict, ConsolidationAction::kKeepBoth).outcome, GateOutcome::kFail);
}

TEST(JudgeConsolidation, RefusesRepeatedCases) {
  EXPECT_THAT(JudgeConsolidation(Cases("x", {{"p", 2}}), Cases("x", {{"p", 1}}), GatePolicy{}),
              StatusIs(absl::StatusCode::kInvalidArgument, HasSubstr("x0 stands twice")));
}

}  // namespace
}  // namespace evolora
