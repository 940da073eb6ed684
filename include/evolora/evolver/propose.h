#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"
#include "evolora/core/case.h"
#include "evolora/core/patch.h"
#include "evolora/evolver/diagnose.h"
#include "evolora/evolver/text_guard.h"

// Patches by plain templates, no model. Text from episodes and feedback is data: each proposer runs
// CheckUntrustedText on all of it and demands provenance.
//
// Errors of every proposer: InvalidArgument     untrusted text, with the reason
//                           FailedPrecondition  no episode id (provenance), or a needed field is
//                           empty NotFound            no trigger separates the requests (skills
//                           only)
namespace evolora {

struct ProposeOptions {
  TextLimits limits;
  int max_trigger_terms = 8;
  int64_t now_unix_ms = 0;  // valid_from of volatile facts
  std::set<PatchKind>
      refused;  // kinds the gate refused for the cluster: ProposeCandidate skips them
};

struct Proposal {
  PatchKind kind = PatchKind::kNone;
  Patch patch;
};

// "q-" + 16 hex digits of the normalised question: equal questions, equal key.
std::string KnowledgeKey(absl::string_view question);
// "<slug>-<8 hex>", [a-z0-9-]; different clusters, different names.
std::string SkillName(absl::string_view cluster);

// Entry of the failure's question, right answer and rule, if any. Entries of `existing` with the
// same normalised question under another key are revoked.
absl::StatusOr<Proposal> ProposeKnowledge(const Failure& failure,
                                          absl::Span<const KnowledgeEntry> existing,
                                          const ProposeOptions& options);

// The alias entry that makes a retriever find `entry` for a question it missed.
absl::StatusOr<Proposal> ProposeKnowledgeAlias(const KnowledgeEntry& entry, const Failure& missed,
                                               const ProposeOptions& options);

// Skill of the cluster: the rule, else a template for the answer's form; a worked example, taken
// from the first usable sibling so that the failure's own answer does not leak into its own probe
// (from the failure only when it has no sibling); a trigger that matches failure and siblings and
// at most 5 % of `outside` (request texts of other clusters). Private cases are never the example.
absl::StatusOr<Proposal> ProposeSkill(const Failure& failure, absl::Span<const Case> siblings,
                                      absl::Span<const std::string> outside,
                                      const ProposeOptions& options);

// The rewritten, narrower skill after an over-specific patch: its trigger matches the failure and
// neither the siblings nor `outside`, its text says so.
absl::StatusOr<Proposal> ProposeNarrowSkill(const Failure& failure, absl::Span<const Case> siblings,
                                            absl::Span<const std::string> outside,
                                            const ProposeOptions& options);

// The rule as a line of the system prompt, for rules whose requests no trigger can tell apart.
absl::StatusOr<Proposal> ProposePromptLine(const Failure& failure, const ProposeOptions& options);

// What the runtime said about the expected tool, as a note. Needs a tool call case.
absl::StatusOr<Proposal> ProposeToolNote(const Failure& failure, const ProposeOptions& options);

// A wider trigger for `skill`: matches `inside` (texts it was made for) and `missed`, none of
// `outside`.
absl::StatusOr<Proposal> ProposeTriggerFix(const Skill& skill, absl::Span<const std::string> inside,
                                           absl::Span<const std::string> missed,
                                           absl::Span<const std::string> outside,
                                           const ProposeOptions& options);

// The case itself for later gates. `reason`: "failure", "verifier_disputed" or "ambiguous".
Patch ProposeValidationCase(const Case& c, absl::string_view reason);

// The candidate that pp and pr measure: a knowledge entry for a fact, a skill for a procedure. A
// rule that no trigger can scope becomes a knowledge entry, which reaches the requests that are
// like the failure; the widest form, a prompt line that reaches every request, comes last.
absl::StatusOr<Proposal> ProposeCandidate(const Failure& failure, absl::Span<const Case> siblings,
                                          absl::Span<const std::string> outside,
                                          absl::Span<const KnowledgeEntry> existing,
                                          const ProposeOptions& options);

}  // namespace evolora
