#include "evolora/evolver/propose.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "evolora/core/sha256.h"
#include "evolora/core/status_macros.h"
#include "propose_common.h"

namespace evolora {
namespace {

// The fields every proposal from a question and its answer shares.
absl::Status CheckQuestionAndAnswer(const Failure& failure, const TextLimits& limits) {
  const CaseFeedback& feedback = failure.value.feedback;
  RETURN_IF_ERROR(CheckRequired(failure, "question", LastUserText(failure.value), limits));
  RETURN_IF_ERROR(CheckRequired(failure, "feedback.answer", feedback.answer, limits));
  return CheckUntrustedText("feedback.rule", feedback.rule, limits);
}

}  // namespace

absl::StatusOr<Provenance> ProvenanceOf(const Failure& failure) {
  if (failure.episode.id.empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat("case ", failure.value.id, ": no episode id, so the patch has no provenance"));
  }
  return Provenance{.source = "feedback", .episode_id = failure.episode.id};
}

absl::Status CheckRequired(const Failure& failure, absl::string_view field, absl::string_view text,
                           const TextLimits& limits) {
  if (NormalizeText(text).empty()) {
    return absl::FailedPreconditionError(
        absl::StrCat("case ", failure.value.id, ": ", field, " is empty"));
  }
  return CheckUntrustedText(field, text, limits);
}

std::string Slug(absl::string_view text) {
  constexpr size_t kLongest = 40;
  std::string slug;
  for (const char c : text) {
    const bool keep = absl::ascii_isalnum(c);
    if (!keep && (slug.empty() || slug.back() == '-')) continue;
    slug.push_back(keep ? absl::ascii_tolower(c) : '-');
    if (slug.size() == kLongest) break;
  }
  while (!slug.empty() && slug.back() == '-') slug.pop_back();
  return slug.empty() ? "cluster" : slug;
}

std::string KnowledgeKey(absl::string_view question) {
  return absl::StrCat("q-", Sha256Hex(NormalizeText(question)).substr(0, 16));
}

absl::StatusOr<Proposal> ProposeKnowledge(const Failure& failure,
                                          absl::Span<const KnowledgeEntry> existing,
                                          const ProposeOptions& options) {
  RETURN_IF_ERROR(CheckQuestionAndAnswer(failure, options.limits));
  KnowledgeEntry entry;
  ASSIGN_OR_RETURN(entry.provenance, ProvenanceOf(failure));
  entry.question = LastUserText(failure.value);
  entry.key = KnowledgeKey(entry.question);
  entry.answer = failure.value.feedback.answer;
  entry.rule = failure.value.feedback.rule;
  if (failure.value.is_volatile) entry.valid_from_unix_ms = options.now_unix_ms;
  const std::string normalised = NormalizeText(entry.question);
  for (const KnowledgeEntry& old : existing) {
    if (old.key != entry.key && NormalizeText(old.question) == normalised) {
      entry.revokes.push_back(old.key);
    }
  }
  Proposal proposal{.kind = PatchKind::kKnowledge};
  proposal.patch.summary =
      absl::StrCat("knowledge ", entry.key, " from case ", failure.value.id,
                   entry.revokes.empty() ? "" : absl::StrCat(", revokes ", entry.revokes.size()));
  proposal.patch.ops.push_back(PutKnowledge{std::move(entry)});
  return proposal;
}

absl::StatusOr<Proposal> ProposeKnowledgeAlias(const KnowledgeEntry& entry, const Failure& missed,
                                               const ProposeOptions& options) {
  const std::string question = LastUserText(missed.value);
  RETURN_IF_ERROR(CheckRequired(missed, "question", question, options.limits));
  KnowledgeEntry alias = entry;
  ASSIGN_OR_RETURN(alias.provenance, ProvenanceOf(missed));
  alias.question = question;
  alias.key = KnowledgeKey(question);
  alias.revokes.clear();
  Proposal proposal{.kind = PatchKind::kKnowledge};
  proposal.patch.summary =
      absl::StrCat("knowledge ", alias.key, ": ", entry.key, " under the question it missed");
  proposal.patch.ops.push_back(PutKnowledge{std::move(alias)});
  return proposal;
}

absl::StatusOr<Proposal> ProposePromptLine(const Failure& failure, const ProposeOptions& options) {
  const std::string& rule = failure.value.feedback.rule;
  RETURN_IF_ERROR(CheckRequired(failure, "feedback.rule", rule, options.limits));
  PromptLine line;
  ASSIGN_OR_RETURN(line.provenance, ProvenanceOf(failure));
  line.id = absl::StrCat("rule-", Sha256Hex(NormalizeText(rule)).substr(0, 12));
  line.text = rule;
  Proposal proposal{.kind = PatchKind::kPrompt};
  proposal.patch.summary = absl::StrCat("prompt line ", line.id, " for ", failure.value.cluster);
  proposal.patch.ops.push_back(PutPromptLine{std::move(line)});
  return proposal;
}

absl::StatusOr<Proposal> ProposeToolNote(const Failure& failure, const ProposeOptions& options) {
  const std::string& tool = failure.value.verify.tool_name;
  const std::string& detail = failure.episode.feedback.detail;
  RETURN_IF_ERROR(CheckRequired(failure, "verify.tool_name", tool, options.limits));
  RETURN_IF_ERROR(CheckRequired(failure, "feedback.detail", detail, options.limits));
  ToolNote note;
  ASSIGN_OR_RETURN(note.provenance, ProvenanceOf(failure));
  note.tool = tool;
  note.text = absl::StrCat("The runtime refuses calls of ", tool, ": ", detail,
                           ". Do not retry such a call; say which tool is out of order.");
  Proposal proposal{.kind = PatchKind::kTool};
  proposal.patch.summary = absl::StrCat("tool note for ", tool, " from case ", failure.value.id);
  proposal.patch.ops.push_back(PutToolNote{std::move(note)});
  return proposal;
}

Patch ProposeValidationCase(const Case& c, absl::string_view reason) {
  Patch patch;
  patch.summary = absl::StrCat("validation case ", c.id, " (", reason, ")");
  patch.ops.push_back(PutValidationCase{{.value = c, .reason = std::string(reason)}});
  return patch;
}

absl::StatusOr<Proposal> ProposeCandidate(const Failure& failure, absl::Span<const Case> siblings,
                                          absl::Span<const std::string> outside,
                                          absl::Span<const KnowledgeEntry> existing,
                                          const ProposeOptions& options) {
  if (!IsProcedure(failure.value)) return ProposeKnowledge(failure, existing, options);
  absl::StatusOr<Proposal> skill = ProposeSkill(failure, siblings, outside, options);
  if (!absl::IsNotFound(skill.status()) || failure.value.feedback.rule.empty()) return skill;
  const bool has_answer = !NormalizeText(failure.value.feedback.answer).empty();
  if (has_answer && options.refused.count(PatchKind::kKnowledge) == 0) {
    return ProposeKnowledge(failure, existing, options);
  }
  return ProposePromptLine(failure, options);
}

}  // namespace evolora
