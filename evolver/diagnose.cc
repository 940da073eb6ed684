#include "evolora/evolver/diagnose.h"

#include <algorithm>
#include <array>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "evolora/core/trigger.h"
#include "evolora/evolver/text_guard.h"
#include "signature.h"

namespace evolora {
namespace {

bool HasToolCall(const Case& c) { return c.verify.type == VerifyType::kToolCall; }

// Whether the passing case takes `normalised_answer` as well, so that both may be right.
bool Accepts(const Case& c, const std::string& normalised_answer) {
  if (NormalizeText(c.feedback.answer) == normalised_answer) return true;
  return std::any_of(c.verify.any_of.begin(), c.verify.any_of.end(), [&](const std::string& text) {
    return NormalizeText(text) == normalised_answer;
  });
}

std::string UntrustedProblem(const Case& c) {
  const std::pair<const char*, std::string> fields[] = {{"question", LastUserText(c)},
                                                        {"feedback.answer", c.feedback.answer},
                                                        {"feedback.rule", c.feedback.rule},
                                                        {"feedback.hint", c.feedback.hint}};
  for (const auto& [name, text] : fields) {
    const absl::Status status = CheckUntrustedText(name, text);
    if (!status.ok()) return std::string(status.message());
  }
  return "";
}

std::vector<MeasuredRate> MeasureRates(const ProbeTable& table) {
  std::vector<MeasuredRate> rates;
  for (int kind = 0; kind < kNumProbeKinds; ++kind) {
    for (const ProbeTarget target : {ProbeTarget::kOriginal, ProbeTarget::kSiblings}) {
      const ProbeCounts& counts = table.at(static_cast<ProbeKind>(kind), target);
      if (counts.trials == 0) continue;
      rates.push_back({.kind = static_cast<ProbeKind>(kind),
                       .target = target,
                       .counts = counts,
                       .rate = static_cast<double>(counts.successes) / counts.trials,
                       .interval = WilsonInterval(counts.successes, counts.trials)});
    }
  }
  return rates;
}

std::optional<double> Gap(const Diagnosis& d, ProbeKind high, ProbeTarget high_target,
                          ProbeKind low, ProbeTarget low_target) {
  const MeasuredRate* a = FindRate(d, high, high_target);
  const MeasuredRate* b = FindRate(d, low, low_target);
  if (a == nullptr || b == nullptr) return std::nullopt;
  return a->rate - b->rate;
}

std::string RatesInWords(const Diagnosis& d) {
  std::vector<std::string> parts;
  for (const MeasuredRate& rate : d.rates) {
    parts.push_back(absl::StrFormat("%s %d/%d%s", ProbeKindName(rate.kind), rate.counts.successes,
                                    rate.counts.trials,
                                    rate.target == ProbeTarget::kSiblings ? " on siblings" : ""));
  }
  return parts.empty() ? "nothing measured" : absl::StrJoin(parts, ", ");
}

void FillRates(const ProbeTable& table, Diagnosis& d) {
  constexpr ProbeTarget kOriginal = ProbeTarget::kOriginal;
  d.rates = MeasureRates(table);
  d.activation_gap =
      Gap(d, ProbeKind::kForcedPatch, kOriginal, ProbeKind::kRetrievedPatch, kOriginal);
  d.adherence_gap = Gap(d, ProbeKind::kOracle, kOriginal, ProbeKind::kForcedPatch, kOriginal);
  d.portability_gap =
      Gap(d, ProbeKind::kForcedPatch, kOriginal, ProbeKind::kForcedPatch, ProbeTarget::kSiblings);
}

// How far the inheritable classes of a cluster agree.
struct Agreement {
  int64_t total = 0;
  int64_t most = 0;  // of the commonest class
  FailureClass top = FailureClass::kUndetermined;
};

Agreement AgreementOf(const ClusterEvidence& evidence) {
  Agreement agreement;
  for (const auto& [failure_class, count] : evidence.probed) {
    if (!IsInheritable(failure_class)) continue;
    agreement.total += count;
    if (count > agreement.most) {
      agreement.most = count;
      agreement.top = failure_class;
    }
  }
  return agreement;
}

bool IsEstablished(const Agreement& agreement, const ProbePolicy& policy) {
  return agreement.total >= policy.min_probed &&
         PosteriorAbove(agreement.most, agreement.total, policy.established_share) >=
             policy.established_confidence;
}

}  // namespace

bool IsProcedure(const Case& c) { return !c.feedback.rule.empty() || HasToolCall(c); }

bool TeachesProcedure(const Failure& failure) {
  return IsProcedure(failure.value) && failure.candidate != PatchKind::kKnowledge;
}

std::optional<FailureClass> EstablishedClass(const ClusterEvidence& evidence,
                                             const ProbePolicy& policy) {
  const Agreement agreement = AgreementOf(evidence);
  if (!IsEstablished(agreement, policy)) return std::nullopt;
  return agreement.top;
}

int64_t ProbesUntilEstablished(const ClusterEvidence& evidence, const ProbePolicy& policy) {
  Agreement agreement = AgreementOf(evidence);
  constexpr int64_t kNever = 1000;  // a policy that no agreement satisfies
  int64_t more = 0;
  for (; more < kNever && !IsEstablished(agreement, policy); ++more) {
    ++agreement.total;
    ++agreement.most;
  }
  return more;
}

ProbeContext ContextOf(const Failure& failure, const ClusterEvidence& evidence,
                       const ProbePolicy& policy) {
  const Case& c = failure.value;
  ProbeContext context;
  context.is_procedure = TeachesProcedure(failure);
  context.has_gold = !c.feedback.answer.empty();
  context.has_help = context.has_gold || !c.feedback.rule.empty() || !c.feedback.hint.empty();
  context.has_patch = failure.candidate != PatchKind::kNone;
  // A prompt line reaches every request: there is nothing to retrieve.
  context.has_retriever = failure.candidate != PatchKind::kPrompt;
  context.patch_in_state = failure.patch_in_state;
  context.episode_tool_error = failure.episode.feedback.tool_error;
  context.contradicts = !failure.contradicts.empty();
  context.num_siblings = context.is_procedure
                             ? failure.num_siblings
                             : static_cast<int>(SurfaceVariants(LastUserText(c)).size());
  if (c.verify.type == VerifyType::kChoice && !c.verify.choices.empty()) {
    context.chance_rate = 1.0 / static_cast<double>(std::max<size_t>(2, c.verify.choices.size()));
  }
  context.established = EstablishedClass(evidence, policy);
  return context;
}

std::string FindContradiction(const Case& failure, absl::Span<const Case> passing) {
  if (failure.is_private || failure.is_volatile || failure.feedback.answer.empty()) return "";
  const auto request_key = [](const Case& c) { return NormalizeText(RequestText(c.messages)); };
  const std::string request = request_key(failure);
  const std::string answer = NormalizeText(failure.feedback.answer);
  for (const Case& c : passing) {
    if (c.id == failure.id || c.feedback.answer.empty() || c.is_volatile) continue;
    if (request_key(c) == request && !Accepts(c, answer)) return c.id;
  }
  return "";
}

Diagnosis Diagnose(const Failure& failure, const ProbeTable& table, const ClusterEvidence& evidence,
                   const ProbePolicy& policy) {
  const Case& c = failure.value;
  const ProbeContext context = ContextOf(failure, evidence, policy);
  const Signature signature = WalkSignature(table, context, policy, WalkMode::kFinal);
  Diagnosis d;
  d.episode_id = failure.episode.id;
  d.case_id = c.id;
  d.cluster = c.cluster;
  d.tool = HasToolCall(c) ? c.verify.tool_name : "";
  // The answer to a private question must not reach the append-only ledger.
  d.sub_intent = !d.tool.empty() ? d.tool : c.is_private ? "" : NormalizeText(c.feedback.answer);
  d.failure_class = signature.failure_class;
  d.inherited = signature.inherited;
  d.is_procedure = context.is_procedure;
  d.is_volatile = c.is_volatile;
  d.is_private = c.is_private;
  d.has_answer = context.has_gold;
  d.has_provenance = !failure.episode.id.empty();
  d.gold_checked = table.at(ProbeKind::kGold, ProbeTarget::kOriginal).trials > 0;
  d.patch_in_state = failure.patch_in_state;
  d.untrusted_text = UntrustedProblem(c);
  d.contradicts = failure.contradicts;
  d.candidate = failure.candidate;
  d.patch_tokens = failure.patch_tokens;
  d.num_siblings = context.num_siblings;
  FillRates(table, d);
  d.confidence = signature.confidence;
  d.reason = absl::StrFormat("%s%s: %s (%s; confidence %.2f)", FailureClassName(d.failure_class),
                             d.inherited ? ", inherited from its cluster" : "", signature.why,
                             RatesInWords(d), d.confidence);
  return d;
}

const MeasuredRate* FindRate(const Diagnosis& diagnosis, ProbeKind kind, ProbeTarget target) {
  for (const MeasuredRate& rate : diagnosis.rates) {
    if (rate.kind == kind && rate.target == target) return &rate;
  }
  return nullptr;
}

}  // namespace evolora
