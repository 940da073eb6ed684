#pragma once

#include <cstdint>

#include "evolora/device/kernels.h"
#include "kernel_math.h"

// The loss and the optimiser as operations on rows (row_ops.h).
namespace evolora {

template <class T, int kPack>
struct CrossEntropyOp {
  using Finding = ExpSum;
  T* logits;
  int64_t rows;
  int64_t vocabulary;
  const int32_t* first_target;
  const int32_t* ids;
  const int32_t* counts;
  float* losses;
  const float* factor_at;

  EVOLORA_HOST_DEVICE ExpSum Partial(int64_t row, int thread, int threads) const {
    return ExpSumOf<T, kPack>(logits + row * vocabulary, vocabulary, thread, threads);
  }
  static EVOLORA_HOST_DEVICE ExpSum Join(const ExpSum& a, const ExpSum& b) {
    return evolora::Join(a, b);
  }
  EVOLORA_HOST_DEVICE void Finish(int64_t row, int thread, int threads, const ExpSum& total) const {
    T* x = logits + row * vocabulary;
    const float lse = LogOf(total);
    const int32_t begin = first_target[row], end = first_target[row + 1];
    int32_t hits = 0;
    for (int32_t k = begin; k < end; ++k) hits += counts[k];
    const float factor = *factor_at;
    const float weight = factor * static_cast<float>(hits);
    for (int64_t c = int64_t{thread} * kPack; c < vocabulary; c += int64_t{threads} * kPack) {
      Pack<T, kPack> pack = Load<T, kPack>(x + c);
      float out[kPack];
      for (int i = 0; i < kPack; ++i) out[i] = weight * expf(ToFloat(pack.values[i]) - lse);
      for (int32_t k = begin; k < end; ++k) {
        const int64_t at = ids[k] - c;
        for (int i = 0; i < kPack; ++i) {
          if (at != i) continue;
          losses[k] = static_cast<float>(counts[k]) * (lse - ToFloat(pack.values[i]));
          out[i] -= factor * static_cast<float>(counts[k]);
        }
      }
      for (int i = 0; i < kPack; ++i) pack.values[i] = FromFloat<T>(out[i]);
      Store<T, kPack>(pack, x + c);
    }
  }
};

// kNormPartials rows, each a share of all elements.
struct SquaresOp {
  using Finding = double;
  const float* gradient;
  int64_t count;
  int64_t rows;
  double* partials;

  EVOLORA_HOST_DEVICE double Partial(int64_t row, int thread, int threads) const {
    double sum = 0;
    for (int64_t i = row * threads + thread; i < count; i += rows * threads) {
      sum += static_cast<double>(gradient[i]) * static_cast<double>(gradient[i]);
    }
    return sum;
  }
  static EVOLORA_HOST_DEVICE double Join(double a, double b) { return a + b; }
  EVOLORA_HOST_DEVICE void Finish(int64_t row, int thread, int threads, double total) const {
    (void)threads;
    if (thread == 0) partials[row] = total;
  }
};

// One row: the partial sums.
struct NormOp {
  using Finding = double;
  const double* partials;
  int64_t rows;
  float max_norm;
  float* norm_clip;

  EVOLORA_HOST_DEVICE double Partial(int64_t row, int thread, int threads) const {
    (void)row;
    double sum = 0;
    for (int64_t i = thread; i < kNormPartials; i += threads) sum += partials[i];
    return sum;
  }
  static EVOLORA_HOST_DEVICE double Join(double a, double b) { return a + b; }
  EVOLORA_HOST_DEVICE void Finish(int64_t row, int thread, int threads, double total) const {
    (void)row;
    (void)threads;
    if (thread != 0) return;
    const auto norm = static_cast<float>(sqrt(total));
    const float limited = max_norm > 0 ? max_norm / (norm + 1e-6f) : 1.0f;
    const float clip = limited < 1.0f ? limited : 1.0f;
    norm_clip[0] = norm;
    norm_clip[1] = norm - norm == 0.0f ? clip : norm - norm;  // inf - inf is NaN
  }
};

// A row is as many elements as a group has threads.
struct AdamWOp {
  float* value;
  const float* gradient;
  float* moment1;
  float* moment2;
  int64_t count;
  int64_t rows;
  const float* clip;
  const uint8_t* groups;
  AdamWStep steps[2];

  EVOLORA_HOST_DEVICE void Run(int64_t row, int thread, int threads) const {
    const int64_t i = row * threads + thread;
    const float factor = *clip;
    if (i >= count || factor != factor) return;
    const AdamWStep& step = steps[groups != nullptr ? groups[i] : 0];
    const AdamWState s = AdamW({value[i], moment1[i], moment2[i]}, gradient[i] * factor, step);
    value[i] = s.value;
    moment1[i] = s.moment1;
    moment2[i] = s.moment2;
  }
};

}  // namespace evolora
