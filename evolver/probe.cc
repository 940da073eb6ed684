#include "evolora/evolver/probe.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_replace.h"
#include "evolora/core/check.h"
#include "signature.h"

namespace evolora {
namespace {

constexpr const char* kTemplates[] = {"Please answer: {q}", "Here is a question for you. {q}",
                                      "{q} Keep it short."};

}  // namespace

const char* ProbeKindName(ProbeKind kind) {
  static constexpr const char* kNames[kNumProbeKinds] = {"gold", "p0", "po", "pp", "pr", "pk"};
  const int index = static_cast<int>(kind);
  EVOLORA_CHECK(index >= 0 && index < kNumProbeKinds, "unknown probe kind");
  return kNames[index];
}

const char* ProbeTargetName(ProbeTarget target) {
  return target == ProbeTarget::kOriginal ? "original" : "siblings";
}

const ProbeCounts& ProbeTable::at(ProbeKind kind, ProbeTarget target) const {
  return counts_[static_cast<size_t>(kind)][static_cast<size_t>(target)];
}

void ProbeTable::Add(ProbeKind kind, ProbeTarget target, const ProbeCounts& counts) {
  EVOLORA_CHECK(counts.successes >= 0 && counts.tool_errors >= 0 &&
                    counts.successes + counts.tool_errors <= counts.trials,
                "probe counts need 0 <= successes + tool_errors <= trials");
  ProbeCounts& sum = counts_[static_cast<size_t>(kind)][static_cast<size_t>(target)];
  sum.successes += counts.successes;
  sum.trials += counts.trials;
  sum.tool_errors += counts.tool_errors;
}

int64_t ProbeTable::model_calls() const {
  int64_t calls = 0;
  for (int kind = 0; kind < kNumProbeKinds; ++kind) {
    if (static_cast<ProbeKind>(kind) == ProbeKind::kGold) continue;
    for (const ProbeCounts& counts : counts_[kind]) calls += counts.trials;
  }
  return calls;
}

std::optional<ProbeStep> NextProbe(const ProbeTable& so_far, const ProbeContext& context,
                                   const ProbePolicy& policy) {
  const Signature signature = WalkSignature(so_far, context, policy, WalkMode::kPlan);
  if (!signature.need.has_value()) return std::nullopt;
  const ProbeNeed& need = *signature.need;
  if (need.kind == ProbeKind::kGold) return ProbeStep{.kind = need.kind, .target = need.target};
  const int64_t done = so_far.at(need.kind, need.target).trials;
  const TrialRange range = TrialsFor(need, context, policy);
  const int64_t goal = done < range.first ? range.first : range.most;
  const int64_t trials = std::min(goal - done, policy.max_model_calls - so_far.model_calls());
  if (trials <= 0) return std::nullopt;
  const Decoding decoding = need.kind == ProbeKind::kPassAtK ? Decoding::kSampled : policy.decoding;
  return ProbeStep{.kind = need.kind,
                   .target = need.target,
                   .decoding = decoding,
                   .temperature = decoding == Decoding::kSampled ? policy.temperature : 0,
                   .trials = trials,
                   .first_seed = done};
}

double PosteriorAbove(int64_t successes, int64_t trials, double x) {
  EVOLORA_CHECK(successes >= 0 && successes <= trials && x > 0 && x < 1,
                "PosteriorAbove needs 0 <= successes <= trials and 0 < x < 1");
  // P(Beta(s+1, n-s+1) > x) = P(Binomial(n+1, x) <= s).
  const double n = static_cast<double>(trials + 1);
  double sum = 0;
  for (int64_t i = 0; i <= successes; ++i) {
    const double k = static_cast<double>(i);
    sum += std::exp(std::lgamma(n + 1) - std::lgamma(k + 1) - std::lgamma(n - k + 1) +
                    k * std::log(x) + (n - k) * std::log1p(-x));
  }
  return std::min(1.0, sum);
}

std::vector<std::string> SurfaceVariants(absl::string_view question) {
  std::vector<std::string> variants;
  for (const char* pattern : kTemplates) {
    variants.push_back(absl::StrReplaceAll(pattern, {{"{q}", question}}));
  }
  return variants;
}

std::vector<Case> SurfaceVariantCases(const Case& fact) {
  const auto last_user = std::find_if(fact.messages.rbegin(), fact.messages.rend(),
                                      [](const Message& m) { return m.role == "user"; });
  if (last_user == fact.messages.rend()) return {};
  const size_t index = static_cast<size_t>(fact.messages.rend() - last_user) - 1;
  std::vector<Case> cases;
  for (const std::string& variant : SurfaceVariants(last_user->content)) {
    Case c = fact;
    c.id = absl::StrCat(fact.id, "#v", cases.size() + 1);
    c.messages[index].content = variant;
    cases.push_back(std::move(c));
  }
  return cases;
}

}  // namespace evolora
