#include <utility>

#include "absl/strings/str_cat.h"
#include "evolora/core/sha256.h"
#include "evolora/core/status_macros.h"
#include "evolora/evolver/propose.h"
#include "propose_common.h"
#include "scope.h"

namespace evolora {
namespace {

// The case shown as worked example; nullptr when none is fit to be shown.
const Case* PickExample(const Failure& failure, absl::Span<const Case> siblings,
                        const TextLimits& limits) {
  const auto usable = [&](const Case& c) {
    return !c.is_private && !c.feedback.answer.empty() &&
           CheckUntrustedText("question", LastUserText(c), limits).ok() &&
           CheckUntrustedText("feedback.answer", c.feedback.answer, limits).ok();
  };
  for (const Case& sibling : siblings) {
    if (sibling.id != failure.value.id && usable(sibling)) return &sibling;
  }
  return siblings.empty() && usable(failure.value) ? &failure.value : nullptr;
}

std::string Instructions(const Case& c) {
  if (!c.feedback.rule.empty()) return c.feedback.rule;
  return "Answer with one call of a listed tool and nothing else, in exactly the form of the "
         "worked "
         "example.";
}

absl::Status CheckInputs(const Failure& failure, const TextLimits& limits) {
  const Case& c = failure.value;
  RETURN_IF_ERROR(CheckRequired(failure, "question", LastUserText(c), limits));
  RETURN_IF_ERROR(CheckUntrustedText("feedback.rule", c.feedback.rule, limits));
  if (!IsProcedure(c)) {
    return absl::FailedPreconditionError(absl::StrCat(
        "case ", c.id, ": no rule and no tool call, so there is no procedure to teach"));
  }
  return absl::OkStatus();
}

// The skill without its trigger.
absl::StatusOr<Skill> MakeSkill(const Failure& failure, absl::Span<const Case> siblings,
                                const ProposeOptions& options) {
  RETURN_IF_ERROR(CheckInputs(failure, options.limits));
  Skill skill;
  ASSIGN_OR_RETURN(skill.provenance, ProvenanceOf(failure));
  skill.name = SkillName(failure.value.cluster);
  skill.description = absl::StrCat("Procedure for ", Slug(failure.value.cluster));
  skill.instructions = Instructions(failure.value);
  const Case* example = PickExample(failure, siblings, options.limits);
  if (example != nullptr) {
    skill.example_request = LastUserText(*example);
    skill.example_answer = example->feedback.answer;
  } else if (failure.value.feedback.rule.empty()) {
    return absl::FailedPreconditionError(absl::StrCat(
        "case ", failure.value.id, ": neither a rule nor an example that may be shown"));
  }
  return skill;
}

std::vector<std::string> RequestTexts(absl::Span<const Case> cases) {
  std::vector<std::string> texts;
  for (const Case& c : cases) texts.push_back(RequestText(c.messages));
  return texts;
}

Proposal PutSkillProposal(Skill skill) {
  Proposal proposal{.kind = PatchKind::kSkill};
  proposal.patch.summary = absl::StrCat(
      "skill ", skill.name, skill.example_request.empty() ? "" : " with a worked example");
  proposal.patch.ops.push_back(PutSkill{std::move(skill)});
  return proposal;
}

bool HasOnlyAnyOf(const Trigger& t) {
  return !t.all && t.all_of.empty() && t.none_of.empty() && t.regex.empty() && !t.any_of.empty();
}

// `trigger` or `added`, when both are plain alternatives; otherwise NotFound.
absl::StatusOr<Trigger> Union(const Trigger& trigger, const Trigger& added, int max_terms) {
  Trigger other = added;
  if (other.any_of.empty() && other.all_of.size() == 1) std::swap(other.any_of, other.all_of);
  Trigger base = trigger;
  if (base.any_of.empty() && base.all_of.size() == 1) std::swap(base.any_of, base.all_of);
  if (!HasOnlyAnyOf(base) || !HasOnlyAnyOf(other)) {
    return absl::NotFoundError("the old trigger is not a plain list of alternatives");
  }
  base.any_of.insert(base.any_of.end(), other.any_of.begin(), other.any_of.end());
  if (base.any_of.size() > static_cast<size_t>(max_terms)) {
    return absl::NotFoundError(absl::StrCat("the widened trigger needs ", base.any_of.size(),
                                            " terms, limit ", max_terms));
  }
  return base;
}

}  // namespace

std::string SkillName(absl::string_view cluster) {
  return absl::StrCat(Slug(cluster), "-", Sha256Hex(cluster).substr(0, 8));
}

absl::StatusOr<Proposal> ProposeSkill(const Failure& failure, absl::Span<const Case> siblings,
                                      absl::Span<const std::string> outside,
                                      const ProposeOptions& options) {
  ASSIGN_OR_RETURN(Skill skill, MakeSkill(failure, siblings, options));
  std::vector<std::string> inside = RequestTexts(siblings);
  inside.push_back(RequestText(failure.value.messages));
  ASSIGN_OR_RETURN(DerivedScope scope, DeriveScope(inside, outside, options.max_trigger_terms));
  skill.trigger = std::move(scope.trigger);
  return PutSkillProposal(std::move(skill));
}

absl::StatusOr<Proposal> ProposeNarrowSkill(const Failure& failure, absl::Span<const Case> siblings,
                                            absl::Span<const std::string> outside,
                                            const ProposeOptions& options) {
  ASSIGN_OR_RETURN(Skill skill, MakeSkill(failure, siblings, options));
  const std::string own = RequestText(failure.value.messages);
  std::vector<std::string> others = RequestTexts(siblings);
  others.insert(others.end(), outside.begin(), outside.end());
  ASSIGN_OR_RETURN(skill.trigger, DeriveTrigger({&own, 1}, others, options.max_trigger_terms));
  absl::StrAppend(&skill.name, "-", Sha256Hex(failure.value.id).substr(0, 6));
  skill.instructions = absl::StrCat("Applies only to requests like: \"",
                                    LastUserText(failure.value), "\". ", skill.instructions);
  return PutSkillProposal(std::move(skill));
}

absl::StatusOr<Proposal> ProposeTriggerFix(const Skill& skill, absl::Span<const std::string> inside,
                                           absl::Span<const std::string> missed,
                                           absl::Span<const std::string> outside,
                                           const ProposeOptions& options) {
  if (missed.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat("skill ", skill.name, ": no missed request to widen the trigger for"));
  }
  std::vector<std::string> all(inside.begin(), inside.end());
  all.insert(all.end(), missed.begin(), missed.end());
  absl::StatusOr<Trigger> wider = DeriveTrigger(all, outside, options.max_trigger_terms);
  if (!wider.ok()) {
    ASSIGN_OR_RETURN(const Trigger added,
                     DeriveTrigger(missed, outside, options.max_trigger_terms));
    wider = Union(skill.trigger, added, 2 * options.max_trigger_terms);
    if (!wider.ok()) return wider.status();
  }
  Proposal proposal{.kind = PatchKind::kSkill};
  proposal.patch.summary = absl::StrCat("trigger of skill ", skill.name, " widened for ",
                                        missed.size(), " missed requests");
  proposal.patch.ops.push_back(SetSkillTrigger{skill.name, *std::move(wider)});
  return proposal;
}

}  // namespace evolora
