#include "masks.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace evolora {
namespace {

using C = FailureClass;

class MaskList {
 public:
  void AddIf(bool fires, const char* rule, const char* closes, std::string why) {
    if (fires) masks_.push_back({.rule = rule, .closes = closes, .why = std::move(why)});
  }
  std::vector<FiredMask> Take() { return std::move(masks_); }

 private:
  std::vector<FiredMask> masks_;
};

// Gate rejections of this kind of patch: a fact counts for its own case, a skill for the cluster.
int64_t RejectedPatches(const Diagnosis& d, const TicketSummary* ticket) {
  if (ticket == nullptr) return 0;
  int64_t rejected = 0;
  for (const PatchAttempt& attempt : ticket->patch_attempts) {
    const bool same = d.candidate == PatchKind::kKnowledge ? attempt.case_id == d.case_id
                                                           : attempt.kind == d.candidate;
    if (!same) continue;
    rejected = attempt.accepted ? 0 : rejected + 1;
  }
  return rejected;
}

bool FailingPatchOnRecord(const TicketSummary& ticket, const DecisionPolicy& policy) {
  const bool attempt_failed = std::any_of(
      ticket.patch_attempts.begin(), ticket.patch_attempts.end(),
      [&](const PatchAttempt& a) { return !a.accepted || a.tokens > policy.max_patch_tokens; });
  if (attempt_failed) return true;
  return ticket.pp_trials > 0 &&
         1 - PosteriorAbove(ticket.pp_successes, ticket.pp_trials, policy.low_rate) >=
             policy.low_confidence;
}

void AddTextMasks(const Diagnosis& d, const TicketSummary* ticket, const DecisionPolicy& policy,
                  MaskList& masks) {
  const bool needs_patch = d.failure_class != C::kPlumbing;
  masks.AddIf(needs_patch && d.candidate == PatchKind::kNone, "no_candidate_patch", "text",
              "no patch could be proposed from the feedback");
  masks.AddIf(d.failure_class == C::kPlumbing && d.tool.empty(), "no_tool_to_patch", "text",
              "the failing tool is not known by name");
  masks.AddIf(d.patch_tokens > policy.max_patch_tokens, "patch_over_budget", "text",
              absl::StrCat(d.patch_tokens, " patch tokens, budget ", policy.max_patch_tokens));
  const int64_t rejected = RejectedPatches(d, ticket);
  masks.AddIf(rejected >= policy.max_rejected_patches, "patch_failed_before", "text",
              absl::StrCat(rejected, " patches of this kind rejected by the gate, limit ",
                           policy.max_rejected_patches));
}

void AddWeightsMasks(const Diagnosis& d, MaskList& masks) {
  masks.AddIf(d.is_private, "private_never_weights", "weights",
              "personal or secret: must stay deletable");
  masks.AddIf(d.is_volatile, "volatile_never_weights", "weights",
              "expected to change: must stay replaceable");
  masks.AddIf(d.failure_class == C::kPlumbing, "plumbing_never_trains", "weights",
              "the tool runtime refuses the right answer; training cannot repair it");
  masks.AddIf(d.failure_class == C::kVerifierWrong, "wrong_label_never_trains", "weights",
              "the verifier refuses the right answer");
  masks.AddIf(d.failure_class == C::kAbsentCapability && !d.has_answer, "no_training_data",
              "weights", "no right answer is known and no own sample passes");
}

}  // namespace

std::vector<FiredMask> FailureMasks(const Diagnosis& d, const TicketSummary* ticket,
                                    const DecisionPolicy& policy) {
  MaskList masks;
  masks.AddIf(!d.untrusted_text.empty(), "untrusted_text", "all", d.untrusted_text);
  masks.AddIf(!d.has_provenance, "no_provenance", "all", "no episode stands behind the text");
  masks.AddIf(!d.contradicts.empty(), "contradicts_passing_case", "all",
              absl::StrCat("passing case ", d.contradicts, " says otherwise"));
  AddTextMasks(d, ticket, policy, masks);
  AddWeightsMasks(d, masks);
  return masks.Take();
}

std::vector<FiredMask> TrainingMasks(const TicketSummary& ticket, int max_training_crashes,
                                     const DecisionPolicy& policy) {
  const auto examples = static_cast<int64_t>(ticket.examples.size());
  const LoraRules& rules = policy.lora;
  const bool is_rules = policy.router == RouterKind::kRules;
  MaskList masks;
  masks.AddIf(examples < rules.min_examples, "min_examples", "schedule",
              absl::StrCat(examples, " verified unique examples, needs ", rules.min_examples));
  masks.AddIf(is_rules && ticket.num_sub_intents < rules.min_sub_intents, "min_sub_intents",
              "schedule",
              absl::StrCat(ticket.num_sub_intents, " sub-intents, needs ", rules.min_sub_intents));
  const double noise = ticket.gold_checked == 0 ? 0
                                                : static_cast<double>(ticket.gold_refused) /
                                                      static_cast<double>(ticket.gold_checked);
  masks.AddIf(
      noise > rules.max_verifier_noise, "verifier_noise", "schedule",
      absl::StrFormat("the verifier refused %d of %d right answers, limit %.1f %%",
                      ticket.gold_refused, ticket.gold_checked, 100 * rules.max_verifier_noise));
  masks.AddIf(is_rules && !FailingPatchOnRecord(ticket, policy), "no_failing_patch_on_record",
              "schedule",
              absl::StrFormat("no rejected or over-budget patch, forced patch %d/%d",
                              ticket.pp_successes, ticket.pp_trials));
  masks.AddIf(ticket.crashes_in_row >= max_training_crashes, "training_crashed", "schedule",
              absl::StrCat(ticket.crashes_in_row, " trainings crashed in a row, limit ",
                           max_training_crashes));
  return masks.Take();
}

bool IsClosed(Lever lever, const std::vector<FiredMask>& masks) {
  return std::any_of(masks.begin(), masks.end(), [&](const FiredMask& mask) {
    return mask.closes == "all" || mask.closes == LeverName(lever);
  });
}

bool IsVerifiedExample(const Diagnosis& d) {
  return d.has_answer && d.gold_checked && !d.is_private && !d.is_volatile &&
         d.failure_class != C::kPlumbing && d.failure_class != C::kVerifierWrong &&
         d.untrusted_text.empty() && d.has_provenance && d.contradicts.empty();
}

}  // namespace evolora
