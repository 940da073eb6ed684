#pragma once

#include <cmath>
#include <cstdint>

#include "column_ops.h"
#include "dispatch_types.h"
#include "evolora/device/kernels.h"
#include "label_dispatch.h"
#include "row_ops.h"
#include "step_ops.h"
#include "widen_ops.h"

// From arguments to operations: element type, width of an access, threads of a row. Both ways to
// run them go through here, so that the CPU's tests see the decomposition that CUDA runs. A Runner
// has
//   Rows<kThreads>(op)   for operations with findings
//   Each<kThreads>(op)   for those with Run alone
// and both return a KernelError.
namespace evolora {

template <class Runner>
KernelError RunRmsNorm(const RmsNormArgs& a, const Runner& run) {
  return ByType(a.type, [&](auto zero) {
    using T = decltype(zero);
    const auto rows = [&](auto op) {
      op = {As<T>(a.x), a.weight, a.rows, a.width, a.eps, As<T>(a.unit), a.factors, As<T>(a.y)};
      return run.template Rows<kRowThreads>(op);
    };
    return Packs<T>(a.width, a.x, a.unit, a.y) ? rows(RmsNormOp<T, kAccessBytes / sizeof(T)>{})
                                               : rows(RmsNormOp<T, 1>{});
  });
}

template <class Runner>
KernelError RunRmsNormBackward(const RmsNormBackwardArgs& a, const Runner& run) {
  return ByType(a.type, [&](auto zero) {
    using T = decltype(zero);
    const auto rows = [&](auto op) {
      op = {As<T>(a.dy), a.weight, As<T>(a.unit), a.factors, a.rows, a.width, As<T>(a.dx)};
      return run.template Rows<kRowThreads>(op);
    };
    return Packs<T>(a.width, a.dy, a.unit, a.dx)
               ? rows(RmsNormBackwardOp<T, kAccessBytes / sizeof(T)>{})
               : rows(RmsNormBackwardOp<T, 1>{});
  });
}

template <template <class> class Op, class Runner>
KernelError RunRotateHeads(const RotateHeadsArgs& a, const Runner& run) {
  return ByType(a.type, [&](auto zero) {
    using T = decltype(zero);
    const int64_t heads = a.query_heads + a.key_heads;
    Op<T> op;
    static_cast<RotateHeadsOp<T>&>(op) = {
        As<T>(a.qkv), a.rows * heads, a.stride,      a.query_heads, heads,
        a.head_width, a.positions,    a.cos,         a.sin,         a.query_weight,
        a.key_weight, a.eps,          As<T>(a.unit), a.factors};
    return run.template Rows<kWarp>(op);
  });
}

template <class Runner>
KernelError RunSwiGlu(const SwiGluArgs& a, const Runner& run) {
  return ByType(a.type, [&](auto zero) {
    using T = decltype(zero);
    const auto each = [&](auto op) {
      op = {As<T>(a.gate_up), a.rows, a.width, As<T>(a.act)};
      return run.template Each<kRowThreads>(op);
    };
    return Packs<T>(a.width, a.gate_up, a.act) ? each(SwiGluOp<T, kAccessBytes / sizeof(T)>{})
                                               : each(SwiGluOp<T, 1>{});
  });
}

template <class Runner>
KernelError RunSwiGluBackward(const SwiGluArgs& a, const Runner& run) {
  return ByType(a.type, [&](auto zero) {
    using T = decltype(zero);
    const auto each = [&](auto op) {
      op = {As<T>(a.gate_up), As<T>(a.d_act), a.rows, a.width, As<T>(a.act)};
      return run.template Each<kRowThreads>(op);
    };
    return Packs<T>(a.width, a.gate_up, a.d_act, a.act)
               ? each(SwiGluBackwardOp<T, kAccessBytes / sizeof(T)>{})
               : each(SwiGluBackwardOp<T, 1>{});
  });
}

template <class Runner>
KernelError RunMaskFeatures(const MaskFeaturesArgs& a, const Runner& run) {
  return ByType(a.type, [&](auto zero) {
    using T = decltype(zero);
    const auto each = [&](auto op) {
      op = {As<T>(a.x), a.row_keys, a.module_key, a.threshold, a.kept,
            a.rows,     a.width,    a.add,        As<T>(a.y)};
      return run.template Each<kRowThreads>(op);
    };
    return Packs<T>(a.width, a.x, a.y) ? each(MaskFeaturesOp<T, kAccessBytes / sizeof(T)>{})
                                       : each(MaskFeaturesOp<T, 1>{});
  });
}

template <class Runner>
KernelError RunScaleColumns(const ScaleColumnsArgs& a, const Runner& run) {
  return ByType(a.type, [&](auto zero) {
    using T = decltype(zero);
    const auto each = [&](auto op) {
      op = {As<T>(a.z), a.factors, a.rows, a.width, a.add, As<T>(a.y)};
      return run.template Each<kRowThreads>(op);
    };
    return Packs<T>(a.width, a.z, a.y) ? each(ScaleColumnsOp<T, kAccessBytes / sizeof(T)>{})
                                       : each(ScaleColumnsOp<T, 1>{});
  });
}

template <class Runner>
KernelError RunScaleColumnsBackward(const ScaleColumnsBackwardArgs& a, const Runner& run) {
  return ByType(a.type, [&](auto zero) {
    using T = decltype(zero);
    const auto each = [&](auto op) {
      op = {As<T>(a.dy), a.factors,  a.rows,    (a.rows + kColumnRows - 1) / kColumnRows,
            a.width,     As<T>(a.z), a.partials};
      return run.template Each<kRowThreads>(op);
    };
    return Packs<T>(a.width, a.dy, a.z)
               ? each(ScaleColumnsBackwardOp<T, kAccessBytes / sizeof(T)>{})
               : each(ScaleColumnsBackwardOp<T, 1>{});
  });
}

template <class Runner>
KernelError RunSumRows(const SumRowsArgs& a, const Runner& run) {
  return ByType(a.type, [&](auto zero) {
    using T = decltype(zero);
    const auto each = [&](auto op) {
      op = {As<T>(a.x), a.first, a.places, a.rows, a.width, a.stride, As<T>(a.y)};
      return run.template Each<kRowThreads>(op);
    };
    const bool packs = Packs<T>(a.width, a.x) && Packs<T>(a.stride, a.y);
    return packs ? each(SumRowsOp<T, kAccessBytes / sizeof(T)>{}) : each(SumRowsOp<T, 1>{});
  });
}

template <class T, class Block, class Runner>
KernelError RunWidenBlocks(const WidenRowsArgs& a, const Runner& run) {
  const auto each = [&](auto op) {
    op = {As<uint8_t>(a.blocks), a.ids, a.rows, a.width, As<T>(a.y)};
    return run.template Each<kRowThreads>(op);
  };
  return Packs<T>(a.width, a.y) ? each(WidenRowsOp<T, Block, kAccessBytes / sizeof(T)>{})
                                : each(WidenRowsOp<T, Block, 1>{});
}

template <class Runner>
KernelError RunWidenRows(const WidenRowsArgs& a, const Runner& run) {
  return ByType(a.type, [&](auto zero) {
    using T = decltype(zero);
    switch (a.storage) {
      case BlockStorage::kBFloat16:
        return RunWidenBlocks<T, BFloat16Block>(a, run);
      case BlockStorage::kInt8:
        return RunWidenBlocks<T, Int8Block>(a, run);
      case BlockStorage::kQ4:
        break;
    }
    return RunWidenBlocks<T, Q4Block>(a, run);
  });
}

template <class Runner>
KernelError RunCrossEntropy(const CrossEntropyArgs& a, const Runner& run) {
  return ByType(a.type, [&](auto zero) {
    using T = decltype(zero);
    const auto rows = [&](auto op) {
      op = {As<T>(a.logits), a.rows,   a.vocabulary, a.first_target,
            a.ids,           a.counts, a.losses,     a.factor};
      return run.template Rows<kVocabularyThreads>(op);
    };
    return Packs<T>(a.vocabulary, a.logits) ? rows(CrossEntropyOp<T, kAccessBytes / sizeof(T)>{})
                                            : rows(CrossEntropyOp<T, 1>{});
  });
}

template <class Runner>
KernelError RunGradientNorm(const GradientNormArgs& a, const Runner& run) {
  const KernelError error =
      run.template Rows<kRowThreads>(SquaresOp{a.gradient, a.count, kNormPartials, a.partials});
  if (error != nullptr) return error;
  return run.template Rows<kRowThreads>(NormOp{a.partials, 1, a.max_norm, a.norm_clip});
}

template <class Runner>
KernelError RunAdamW(const AdamWArgs& a, const Runner& run) {
  const auto step = [&](double rate) {
    const auto number = static_cast<double>(a.step);
    return AdamWStep{static_cast<float>(1 - rate * a.weight_decay),
                     static_cast<float>(rate / (1 - std::pow(a.beta1, number))),
                     static_cast<float>(a.beta1),
                     static_cast<float>(a.beta2),
                     static_cast<float>(1 / std::sqrt(1 - std::pow(a.beta2, number))),
                     static_cast<float>(a.epsilon)};
  };
  return run.template Each<kRowThreads>(AdamWOp{a.value,
                                                a.gradient,
                                                a.moment1,
                                                a.moment2,
                                                a.count,
                                                (a.count + kRowThreads - 1) / kRowThreads,
                                                a.clip,
                                                a.groups,
                                                {step(a.rates[0]), step(a.rates[1])}});
}

// The table of a way to run: kMake() gives the Runner for a stream.
template <class Runner>
DeviceKernels TableOf(const char* name) {
  return {name,
          [](const RmsNormArgs& a, void* s) { return RunRmsNorm(a, Runner{s}); },
          [](const RmsNormBackwardArgs& a, void* s) { return RunRmsNormBackward(a, Runner{s}); },
          [](const RotateHeadsArgs& a, void* s) {
            return RunRotateHeads<RotateHeadsForwardOp>(a, Runner{s});
          },
          [](const RotateHeadsArgs& a, void* s) {
            return RunRotateHeads<RotateHeadsBackwardOp>(a, Runner{s});
          },
          [](const SwiGluArgs& a, void* s) { return RunSwiGlu(a, Runner{s}); },
          [](const SwiGluArgs& a, void* s) { return RunSwiGluBackward(a, Runner{s}); },
          [](const MaskFeaturesArgs& a, void* s) { return RunMaskFeatures(a, Runner{s}); },
          [](const ScaleColumnsArgs& a, void* s) { return RunScaleColumns(a, Runner{s}); },
          [](const ScaleColumnsBackwardArgs& a, void* s) {
            return RunScaleColumnsBackward(a, Runner{s});
          },
          [](const SumRowsArgs& a, void* s) { return RunSumRows(a, Runner{s}); },
          [](const WidenRowsArgs& a, void* s) { return RunWidenRows(a, Runner{s}); },
          [](const CrossEntropyArgs& a, void* s) { return RunCrossEntropy(a, Runner{s}); },
          [](const LabelLogProbsArgs& a, void* s) { return RunLabelLogProbs(a, Runner{s}); },
          [](const LabelGradientArgs& a, void* s) { return RunLabelGradient(a, Runner{s}); },
          [](const PolicyLossArgs& a, void* s) { return RunPolicyLoss(a, Runner{s}); },
          [](const DpoLossArgs& a, void* s) { return RunDpoLoss(a, Runner{s}); },
          [](const DistillTopArgs& a, void* s) { return RunDistillTop(a, Runner{s}); },
          [](const DistillWholeArgs& a, void* s) { return RunDistillWhole(a, Runner{s}); },
          [](const GradientNormArgs& a, void* s) { return RunGradientNorm(a, Runner{s}); },
          [](const AdamWArgs& a, void* s) { return RunAdamW(a, Runner{s}); }};
}

}  // namespace evolora
