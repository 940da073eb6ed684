#pragma once

#include <cstdint>

#include "dispatch_types.h"
#include "distill_ops.h"
#include "evolora/device/kernels.h"
#include "label_ops.h"

// dispatch.h for losses that are computed on a device.
namespace evolora {

template <class Runner>
KernelError RunLabelLogProbs(const LabelLogProbsArgs& a, const Runner& run) {
  return ByType(a.type, [&](auto zero) {
    using T = decltype(zero);
    const auto rows = [&](auto op) {
      op = {As<T>(a.logits), a.rows, a.vocabulary, a.ids, a.log_sums, a.log_probs};
      return run.template Rows<kVocabularyThreads>(op);
    };
    return Packs<T>(a.vocabulary, a.logits) ? rows(LabelLogProbsOp<T, kAccessBytes / sizeof(T)>{})
                                            : rows(LabelLogProbsOp<T, 1>{});
  });
}

template <class Runner>
KernelError RunLabelGradient(const LabelGradientArgs& a, const Runner& run) {
  return ByType(a.type, [&](auto zero) {
    using T = decltype(zero);
    const auto each = [&](auto op) {
      op = {As<T>(a.logits), a.rows, a.vocabulary, a.ids, a.log_sums, a.weights, a.factor};
      return run.template Each<kVocabularyThreads>(op);
    };
    return Packs<T>(a.vocabulary, a.logits) ? each(LabelGradientOp<T, kAccessBytes / sizeof(T)>{})
                                            : each(LabelGradientOp<T, 1>{});
  });
}

template <class Runner>
KernelError RunPolicyLoss(const PolicyLossArgs& a, const Runner& run) {
  return run.template Each<kRowThreads>(
      PolicyLossOp{a, (a.labels + kRowThreads - 1) / kRowThreads});
}

template <class Runner>
KernelError RunDpoLoss(const DpoLossArgs& a, const Runner& run) {
  return run.template Rows<kRowThreads>(DpoLossOp{a, a.pairs});
}

template <class Runner>
KernelError RunDistillTop(const DistillTopArgs& a, const Runner& run) {
  return ByType(a.type, [&](auto zero) {
    using T = decltype(zero);
    constexpr int kPack = kAccessBytes / sizeof(T);
    return Packs<T>(a.vocabulary, a.logits)
               ? run.template Rows<kVocabularyThreads>(DistillTopOp<T, kPack>{a, a.rows})
               : run.template Rows<kVocabularyThreads>(DistillTopOp<T, 1>{a, a.rows});
  });
}

template <class Runner>
KernelError RunDistillWhole(const DistillWholeArgs& a, const Runner& run) {
  return ByType(a.type, [&](auto zero) {
    using T = decltype(zero);
    constexpr int kPack = kAccessBytes / sizeof(T);
    return Packs<T>(a.vocabulary, a.logits, a.teacher)
               ? run.template Rows<kVocabularyThreads>(DistillWholeOp<T, kPack>{a, a.rows})
               : run.template Rows<kVocabularyThreads>(DistillWholeOp<T, 1>{a, a.rows});
  });
}

}  // namespace evolora
