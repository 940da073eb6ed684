#pragma once

#include <cstdint>

#include "evolora/device/kernels.h"
#include "kernel_math.h"

// Losses of labels as operations on rows (row_ops.h).
namespace evolora {

template <class T, int kPack>
struct LabelLogProbsOp {
  using Finding = ExpSum;
  const T* logits;
  int64_t rows;
  int64_t vocabulary;
  const int32_t* ids;
  double* log_sums;
  double* log_probs;

  EVOLORA_HOST_DEVICE ExpSum Partial(int64_t row, int thread, int threads) const {
    return ExpSumOf<T, kPack>(logits + row * vocabulary, vocabulary, thread, threads);
  }
  static EVOLORA_HOST_DEVICE ExpSum Join(const ExpSum& a, const ExpSum& b) {
    return evolora::Join(a, b);
  }
  EVOLORA_HOST_DEVICE void Finish(int64_t row, int thread, int threads, const ExpSum& total) const {
    (void)threads;
    if (thread != 0) return;
    log_sums[row] = WideLogOf(total);
    log_probs[row] =
        static_cast<double>(ToFloat(logits[row * vocabulary + ids[row]])) - log_sums[row];
  }
};

template <class T, int kPack>
struct LabelGradientOp {
  T* logits;
  int64_t rows;
  int64_t vocabulary;
  const int32_t* ids;
  const double* log_sums;
  const double* weights;
  const float* factor;

  EVOLORA_HOST_DEVICE void Run(int64_t row, int thread, int threads) const {
    T* x = logits + row * vocabulary;
    const auto weight = static_cast<float>(static_cast<double>(*factor) * weights[row]);
    const auto log_sum = static_cast<float>(log_sums[row]);
    for (int64_t c = int64_t{thread} * kPack; c < vocabulary; c += int64_t{threads} * kPack) {
      Pack<T, kPack> pack = Load<T, kPack>(x + c);
      for (int i = 0; i < kPack; ++i) {
        const float hit = c + i == ids[row] ? 1.0f : 0.0f;
        pack.values[i] = FromFloat<T>(weight * (expf(ToFloat(pack.values[i]) - log_sum) - hit));
      }
      Store<T, kPack>(pack, x + c);
    }
  }
};

// A row is as many labels as a group has threads.
struct PolicyLossOp {
  PolicyLossArgs a;
  int64_t rows;

  EVOLORA_HOST_DEVICE void Run(int64_t row, int thread, int threads) const {
    const int64_t i = row * threads + thread;
    if (i >= a.labels) return;
    PolicyTerm term = {0, 0, 0, 0, 0};
    const bool present = a.counts[i] > 0;
    if (present) {
      term = PolicyTermOf(a.form,
                          {a.log_probs[i], a.old_log_probs[i], a.references[i], a.advantages[i]});
    }
    double* terms = a.terms + i * kLossTerms;
    a.weights[i] = present ? term.weight * a.shares[i] : 0.0;
    terms[0] = present ? term.loss * a.shares[i] : 0.0;
    terms[1] = present ? 1 : 0;
    terms[2] = term.ratio;
    terms[3] = term.clipped;
    terms[4] = term.old_kl;
  }
};

// A row is a pair.
struct DpoLossOp {
  struct Finding {
    double chosen;
    double rejected;
  };
  DpoLossArgs a;
  int64_t rows;

  EVOLORA_HOST_DEVICE double Sum(int32_t begin, int32_t end, int thread, int threads) const {
    double sum = 0;
    for (int32_t i = begin + thread; i < end; i += threads) sum += a.log_probs[i];
    return sum;
  }
  EVOLORA_HOST_DEVICE Finding Partial(int64_t row, int thread, int threads) const {
    const int32_t* at = a.answers + row * 4;
    return {Sum(at[0], at[1], thread, threads), Sum(at[2], at[3], thread, threads)};
  }
  static EVOLORA_HOST_DEVICE Finding Join(const Finding& x, const Finding& y) {
    return {x.chosen + y.chosen, x.rejected + y.rejected};
  }
  EVOLORA_HOST_DEVICE void Finish(int64_t row, int thread, int threads,
                                  const Finding& total) const {
    const int32_t* at = a.answers + row * 4;
    const double* reference = a.references + row * 2;
    const bool present = at[1] > at[0] || at[3] > at[2];
    const DpoTerm term =
        DpoTermOf(a.form, total.chosen - reference[0], total.rejected - reference[1]);
    for (int32_t i = at[0] + thread; i < at[1]; i += threads) a.weights[i] = term.chosen_weight;
    for (int32_t i = at[2] + thread; i < at[3]; i += threads) a.weights[i] = -term.chosen_weight;
    if (thread != 0) return;
    double* terms = a.terms + row * kLossTerms;
    terms[0] = present ? term.loss : 0.0;
    terms[1] = present ? 1 : 0;
    terms[2] = present ? term.reward_chosen : 0.0;
    terms[3] = present ? term.reward_rejected : 0.0;
    terms[4] = present && term.reward_chosen > term.reward_rejected ? 1 : 0;
  }
};

}  // namespace evolora
