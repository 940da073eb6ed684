#pragma once

#include <string>

#include "absl/strings/str_cat.h"
#include "evolora/evolver/decide.h"
#include "evolora/evolver/diagnose.h"
#include "evolora/evolver/ledger.h"
#include "evolora/evolver/probe.h"

// Small cases, failures and tables that the evolver's tests share.
namespace evolora::testing {

inline Case FactCase(const std::string& id, const std::string& question,
                     const std::string& answer) {
  Case c;
  c.id = id;
  c.cluster = "facts";
  c.messages = {{"user", question}};
  c.verify.any_of = {answer};
  c.feedback.answer = answer;
  return c;
}

inline Case RuleCase(const std::string& id, const std::string& question, const std::string& answer,
                     const std::string& rule) {
  Case c = FactCase(id, question, answer);
  c.cluster = "persona";
  c.feedback.rule = rule;
  c.feedback.hint = rule;
  return c;
}

inline Case ToolCase(const std::string& id, const std::string& question, const std::string& tool) {
  Case c;
  c.id = id;
  c.cluster = "tool-calls";
  c.messages = {{"system", "You may call tools. Tools: [...]"}, {"user", question}};
  c.verify.type = VerifyType::kToolCall;
  c.verify.tool_name = tool;
  c.feedback.answer = absl::StrCat("[", tool, "(q=\"", question, "\")]");
  return c;
}

inline Failure FailureOf(const Case& c, PatchKind candidate, int num_siblings = 0) {
  Failure f;
  f.value = c;
  f.episode.id = absl::StrCat("episode-of-", c.id);
  f.episode.case_id = c.id;
  f.episode.cluster = c.cluster;
  f.candidate = candidate;
  f.patch_tokens = candidate == PatchKind::kNone ? 0 : 40;
  f.num_siblings = num_siblings;
  return f;
}

// One row of counts; a kind with zero trials is not measured.
struct Counts {
  ProbeCounts gold, p0, po, pp, pp_siblings, pr, pr_siblings, pk;
};

inline ProbeTable TableOf(const Counts& c) {
  ProbeTable table;
  table.Add(ProbeKind::kGold, ProbeTarget::kOriginal, c.gold);
  table.Add(ProbeKind::kAsIs, ProbeTarget::kOriginal, c.p0);
  table.Add(ProbeKind::kOracle, ProbeTarget::kOriginal, c.po);
  table.Add(ProbeKind::kForcedPatch, ProbeTarget::kOriginal, c.pp);
  table.Add(ProbeKind::kForcedPatch, ProbeTarget::kSiblings, c.pp_siblings);
  table.Add(ProbeKind::kRetrievedPatch, ProbeTarget::kOriginal, c.pr);
  table.Add(ProbeKind::kRetrievedPatch, ProbeTarget::kSiblings, c.pr_siblings);
  table.Add(ProbeKind::kPassAtK, ProbeTarget::kOriginal, c.pk);
  return table;
}

// Stands in for the model: answers each step from fixed rates (successes = first trials that fit).
struct FakeReplays {
  double gold = 1, p0 = 0, po = 0, pp = 0, pp_siblings = 0, pr = 0, pr_siblings = 0, pk = 0;
  bool gold_tool_error = false;

  double RateOf(ProbeKind kind, ProbeTarget target) const {
    const bool siblings = target == ProbeTarget::kSiblings;
    switch (kind) {
      case ProbeKind::kGold:
        return gold;
      case ProbeKind::kAsIs:
        return p0;
      case ProbeKind::kOracle:
        return po;
      case ProbeKind::kForcedPatch:
        return siblings ? pp_siblings : pp;
      case ProbeKind::kRetrievedPatch:
        return siblings ? pr_siblings : pr;
      case ProbeKind::kPassAtK:
        return pk;
    }
    return 0;
  }
  ProbeCounts Run(const ProbeStep& step) const {
    const double rate = RateOf(step.kind, step.target);
    ProbeCounts counts;
    counts.trials = step.trials;
    counts.successes = static_cast<int64_t>(rate * static_cast<double>(step.trials) + 0.5);
    if (step.kind == ProbeKind::kGold && gold_tool_error) counts.tool_errors = 1;
    return counts;
  }
};

struct Probed {
  ProbeTable table;
  std::vector<ProbeStep> steps;
};

// Runs the whole plan of a failure.
inline Probed RunPlan(const Failure& failure, const ClusterEvidence& evidence,
                      const ProbePolicy& policy, const FakeReplays& replays) {
  Probed probed;
  const ProbeContext context = ContextOf(failure, evidence, policy);
  while (auto step = NextProbe(probed.table, context, policy)) {
    probed.table.Add(step->kind, step->target, replays.Run(*step));
    probed.steps.push_back(*step);
    if (probed.steps.size() > 100) break;  // a plan that never stops fails the test, not the run
  }
  return probed;
}

inline const FiredMask* FindMask(const Decision& decision, const std::string& rule) {
  for (const FiredMask& mask : decision.masks) {
    if (mask.rule == rule) return &mask;
  }
  return nullptr;
}

}  // namespace evolora::testing
