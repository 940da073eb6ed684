#include "signature.h"

#include <algorithm>

namespace evolora {
namespace {

enum class Level { kNeedsMore, kUnknown, kHigh, kLow };

constexpr double kNoSiblingFactor = 0.8;   // a procedure seen once may be over-specific
constexpr double kNoGoldConfidence = 0.6;  // a tool error with no right answer to try the tool with

class Walker {
 public:
  Walker(const ProbeTable& table, const ProbeContext& context, const ProbePolicy& policy,
         WalkMode mode)
      : table_(table), context_(context), policy_(policy), mode_(mode) {}

  Signature Walk() {
    if (std::optional<Signature> settled = CheckGold()) return *settled;
    if (context_.contradicts) {
      return Settle(FailureClass::kAmbiguous,
                    "a passing case with the same request says otherwise");
    }
    if (std::optional<Signature> inherited = Inherit()) return *inherited;
    switch (Read(ProbeKind::kAsIs, ProbeTarget::kOriginal)) {
      case Level::kNeedsMore:
        return Needed();
      case Level::kUnknown:
        return Undetermined("the failure was not replayed");
      case Level::kHigh:
        return Settle(FailureClass::kNotReproducible, "the replay passes");
      case Level::kLow:
        break;
    }
    if (!context_.has_patch) return WithoutPatch();
    switch (Read(ProbeKind::kForcedPatch, ProbeTarget::kOriginal)) {
      case Level::kNeedsMore:
        return Needed();
      case Level::kUnknown:
        return Undetermined("the patch was not tried");
      case Level::kHigh:
        return PatchWorks();
      case Level::kLow:
        break;
    }
    return WithoutPatch();
  }

 private:
  // The verifier run on the right answer: settles faults that lie outside the model.
  std::optional<Signature> CheckGold() {
    if (!context_.has_gold) {
      if (!context_.episode_tool_error) return std::nullopt;
      confidence_ = kNoGoldConfidence;
      return Settle(FailureClass::kPlumbing,
                    "the tool failed and no right answer is known to try it with");
    }
    const ProbeCounts& gold = table_.at(ProbeKind::kGold, ProbeTarget::kOriginal);
    if (gold.trials == 0) {
      if (mode_ == WalkMode::kFinal) return std::nullopt;
      need_ = {ProbeKind::kGold, ProbeTarget::kOriginal};
      return Needed();
    }
    if (gold.successes * 2 >= gold.trials) return std::nullopt;
    if (gold.tool_errors > 0) {
      return Settle(FailureClass::kPlumbing, "the tool runtime refuses the right answer");
    }
    return Settle(FailureClass::kVerifierWrong, "the verifier refuses the right answer");
  }

  // A clear cluster signature spares the rest of the plan, unless the forced patch disagrees.
  std::optional<Signature> Inherit() {
    if (!context_.established.has_value()) return std::nullopt;
    const FailureClass established = *context_.established;
    if (LeverOf(established) == Lever::kWeights) {
      return Inherited(established, "the cluster's signature is established");
    }
    if (!context_.has_patch) return std::nullopt;
    switch (Read(ProbeKind::kForcedPatch, ProbeTarget::kOriginal)) {
      case Level::kNeedsMore:
        return Needed();
      case Level::kHigh:
        return context_.patch_in_state
                   ? Inherited(FailureClass::kTriggerMiss,
                               "the patch is in the state and works only when forced")
                   : Inherited(established,
                               "the cluster's signature is established and the patch works here");
      case Level::kUnknown:
      case Level::kLow:
        break;
    }
    confidence_ = 1;
    return std::nullopt;
  }

  // pp is high on the original.
  Signature PatchWorks() {
    if (context_.patch_in_state) {
      return Settle(FailureClass::kTriggerMiss,
                    "the patch is in the state and works only when forced");
    }
    const Level retrieved = context_.has_retriever
                                ? Read(ProbeKind::kRetrievedPatch, ProbeTarget::kOriginal)
                                : Level::kUnknown;
    if (retrieved == Level::kNeedsMore) return Needed();
    if (retrieved == Level::kLow) {
      return Settle(FailureClass::kTriggerMiss, "the patch works when forced, not when retrieved");
    }
    const FailureClass works =
        context_.is_procedure ? FailureClass::kMissingProcedure : FailureClass::kMissingKnowledge;
    if (context_.num_siblings <= 0) return WithoutSiblings(works);
    switch (Read(ProbeKind::kForcedPatch, ProbeTarget::kSiblings)) {
      case Level::kNeedsMore:
        return Needed();
      case Level::kUnknown:
        return WithoutSiblings(works);
      case Level::kLow:
        return Settle(FailureClass::kOverSpecificPatch,
                      "the patch works on the original and not on its siblings");
      case Level::kHigh:
        break;
    }
    const Level reach = context_.has_retriever
                            ? Read(ProbeKind::kRetrievedPatch, ProbeTarget::kSiblings)
                            : Level::kUnknown;
    if (reach == Level::kNeedsMore) return Needed();
    if (reach == Level::kLow) {
      return Settle(FailureClass::kTriggerMiss, "siblings profit from the patch and do not get it");
    }
    return Settle(works, "the patch works on the original and on its siblings");
  }

  Signature WithoutSiblings(FailureClass works) {
    if (context_.is_procedure) confidence_ *= kNoSiblingFactor;
    return Settle(works, "the patch works; no siblings were measured");
  }

  // pp is low, or there is no patch to try.
  Signature WithoutPatch() {
    if (context_.has_help) {
      switch (Read(ProbeKind::kOracle, ProbeTarget::kOriginal)) {
        case Level::kNeedsMore:
          return Needed();
        case Level::kUnknown:
          return Undetermined("the oracle hint was not tried");
        case Level::kHigh:
          return context_.has_patch
                     ? Settle(FailureClass::kAdherence, "the hint fixes it, the patch does not")
                     : Undetermined("the hint fixes it, but no patch could be proposed");
        case Level::kLow:
          break;
      }
    }
    return Unaided();
  }

  // Whether unaided samples ever pass, beyond a blind guess.
  Signature Unaided() {
    ProbeCounts samples = table_.at(ProbeKind::kPassAtK, ProbeTarget::kOriginal);
    if (samples.trials < policy_.pass_samples && mode_ == WalkMode::kPlan) {
      need_ = {ProbeKind::kPassAtK, ProbeTarget::kOriginal};
      return Needed();
    }
    if (samples.trials == 0) return Undetermined("no unaided samples were drawn");
    if (policy_.decoding == Decoding::kSampled) {
      const ProbeCounts& as_is = table_.at(ProbeKind::kAsIs, ProbeTarget::kOriginal);
      samples.successes += as_is.successes;
      samples.trials += as_is.trials;
    }
    const bool passes = context_.chance_rate > 0
                            ? PosteriorAbove(samples.successes, samples.trials,
                                             context_.chance_rate) >= policy_.confidence
                            : samples.successes > 0;
    if (passes) {
      return Settle(FailureClass::kUnreliable, "no help fixes it, yet some unaided samples pass");
    }
    // Zero of k still leaves room for a small rate; say how sure the absence is.
    confidence_ =
        std::min(confidence_, 1 - PosteriorAbove(samples.successes, samples.trials, 0.25));
    return Settle(FailureClass::kAbsentCapability, "no help fixes it and no unaided sample passes");
  }

  Level Read(ProbeKind kind, ProbeTarget target) {
    const ProbeNeed need{kind, target};
    const ProbeCounts& counts = table_.at(kind, target);
    const TrialRange range = TrialsFor(need, context_, policy_);
    if (mode_ == WalkMode::kPlan && counts.trials < range.first) {
      need_ = need;
      return Level::kNeedsMore;
    }
    if (counts.trials == 0) return Level::kUnknown;
    const bool exact = range.most == 1 && target == ProbeTarget::kOriginal;
    const bool unanimous = counts.successes == 0 || counts.successes == counts.trials;
    const bool is_high = counts.successes * 2 >= counts.trials;
    if (exact && unanimous) return is_high ? Level::kHigh : Level::kLow;
    const double above = PosteriorAbove(counts.successes, counts.trials, policy_.high);
    const double below = 1 - PosteriorAbove(counts.successes, counts.trials, policy_.low);
    const bool clear = above >= policy_.confidence || below >= policy_.confidence;
    if (mode_ == WalkMode::kPlan && !clear && counts.trials < range.most) {
      need_ = need;
      return Level::kNeedsMore;
    }
    const double half = PosteriorAbove(counts.successes, counts.trials, 0.5);
    confidence_ = std::min(confidence_, is_high ? half : 1 - half);
    return is_high ? Level::kHigh : Level::kLow;
  }

  Signature Needed() const { return Signature{.need = need_}; }
  Signature Undetermined(const char* why) const {
    return Signature{.failure_class = FailureClass::kUndetermined, .why = why};
  }
  Signature Settle(FailureClass failure_class, const char* why) const {
    return Signature{.failure_class = failure_class, .confidence = confidence_, .why = why};
  }
  Signature Inherited(FailureClass failure_class, const char* why) const {
    return Signature{.failure_class = failure_class,
                     .inherited = true,
                     .confidence = std::min(confidence_, policy_.established_confidence),
                     .why = why};
  }

  const ProbeTable& table_;
  const ProbeContext& context_;
  const ProbePolicy& policy_;
  const WalkMode mode_;
  std::optional<ProbeNeed> need_;
  double confidence_ = 1;
};

}  // namespace

TrialRange TrialsFor(const ProbeNeed& need, const ProbeContext& context,
                     const ProbePolicy& policy) {
  if (need.kind == ProbeKind::kGold) return {1, 1};
  if (need.kind == ProbeKind::kPassAtK) return {policy.pass_samples, policy.pass_samples};
  if (policy.decoding == Decoding::kSampled) return {policy.min_replays, policy.max_replays};
  if (need.target == ProbeTarget::kOriginal) return {1, 1};
  const int64_t siblings = std::max(0, context.num_siblings);
  return {std::min<int64_t>(policy.min_replays, siblings),
          std::min<int64_t>(policy.max_replays, siblings)};
}

Signature WalkSignature(const ProbeTable& table, const ProbeContext& context,
                        const ProbePolicy& policy, WalkMode mode) {
  return Walker(table, context, policy, mode).Walk();
}

}  // namespace evolora
