#pragma once

#include <cstdint>

#include "evolora/device/kernels.h"
#include "kernel_math.h"

// Distillation as operations on rows (row_ops.h). q, p: of the model and of the teacher.
namespace evolora {

template <class T, int kPack>
struct DistillTopOp {
  struct Finding {
    ExpSum kept;
    ExpSum rest;
  };
  DistillTopArgs a;
  int64_t rows;

  EVOLORA_HOST_DEVICE const int32_t* Ids(int64_t row) const { return a.ids + row * a.kept; }
  // Calls body(column, value over T, place among the kept tokens or -1) for the packs of a row
  // that are a thread's own, and stores what it returns where `store`.
  template <class Body>
  EVOLORA_HOST_DEVICE void ForOwn(int64_t row, int thread, int threads, bool store,
                                  const Body& body) const {
    T* x = As(a.logits) + row * a.vocabulary;
    const int32_t* ids = Ids(row);
    int64_t next = 0;  // the first kept token that is not before the column
    for (int64_t c = int64_t{thread} * kPack; c < a.vocabulary; c += int64_t{threads} * kPack) {
      Pack<T, kPack> pack = Load<T, kPack>(x + c);
      while (next < a.kept && ids[next] < c) ++next;
      for (int i = 0; i < kPack; ++i) {
        const bool hit = next < a.kept && ids[next] == c + i;
        pack.values[i] =
            FromFloat<T>(body(ToFloat(pack.values[i]) * a.inverse_temperature, hit ? next : -1));
        if (hit) ++next;
      }
      if (store) Store<T, kPack>(pack, x + c);
    }
  }
  static EVOLORA_HOST_DEVICE T* As(void* data) { return static_cast<T*>(data); }

  EVOLORA_HOST_DEVICE Finding Partial(int64_t row, int thread, int threads) const {
    Finding found;
    ForOwn(row, thread, threads, /*store=*/false, [&](float value, int64_t place) {
      ExpSum& sum = place >= 0 ? found.kept : found.rest;
      sum = evolora::Join(sum, {value, 1.0f});
      return value;
    });
    return found;
  }
  static EVOLORA_HOST_DEVICE Finding Join(const Finding& x, const Finding& y) {
    return {evolora::Join(x.kept, y.kept), evolora::Join(x.rest, y.rest)};
  }
  EVOLORA_HOST_DEVICE void Finish(int64_t row, int thread, int threads,
                                  const Finding& total) const {
    const bool present = a.counts[row] > 0;
    const float lse = LogOf(evolora::Join(total.kept, total.rest));
    const double log_rest = static_cast<double>(LogOf(total.rest)) - static_cast<double>(lse);
    const double ratio = present ? exp(a.log_rests[row] - log_rest) : 1.0;  // R / r
    const float slope = present ? *a.factor * a.inverse_temperature : 0.0f;
    double* losses = a.losses + row * (a.kept + 1);
    ForOwn(row, thread, threads, /*store=*/true, [&](float value, int64_t place) {
      const float q = expf(value - lse);
      if (place < 0) return slope * q * static_cast<float>(1 - ratio);
      const double log_p = a.log_probs[row * a.kept + place];
      const double p = exp(log_p);
      losses[place] =
          present ? p * (log_p - (static_cast<double>(value) - static_cast<double>(lse))) : 0.0;
      return slope * (q - static_cast<float>(p));
    });
    if (thread != 0) return;
    losses[a.kept] = present ? exp(a.log_rests[row]) * (a.log_rests[row] - log_rest) : 0.0;
  }
};

template <class T, int kPack>
struct DistillWholeOp {
  struct Finding {
    ExpSum q;
    ExpSum p;
    double dot = 0;  // sum of exp(t - p.max) (t - x), of values t and x over T
  };
  DistillWholeArgs a;
  int64_t rows;

  EVOLORA_HOST_DEVICE Finding Partial(int64_t row, int thread, int threads) const {
    const T* x = static_cast<const T*>(a.logits) + row * a.vocabulary;
    const T* t = static_cast<const T*>(a.teacher) + row * a.vocabulary;
    Finding found;
    for (int64_t c = int64_t{thread} * kPack; c < a.vocabulary; c += int64_t{threads} * kPack) {
      const Pack<T, kPack> own = Load<T, kPack>(x + c), theirs = Load<T, kPack>(t + c);
      for (int i = 0; i < kPack; ++i) {
        const float q = ToFloat(own.values[i]) * a.inverse_temperature;
        const float p = ToFloat(theirs.values[i]) * a.inverse_temperature;
        found =
            Join(found, {{q, 1.0f}, {p, 1.0f}, static_cast<double>(p) - static_cast<double>(q)});
      }
    }
    return found;
  }
  static EVOLORA_HOST_DEVICE Finding Join(const Finding& x, const Finding& y) {
    const ExpSum p = evolora::Join(x.p, y.p);
    return {evolora::Join(x.q, y.q), p,
            x.dot * static_cast<double>(expf(x.p.max - p.max)) +
                y.dot * static_cast<double>(expf(y.p.max - p.max))};
  }
  EVOLORA_HOST_DEVICE void Finish(int64_t row, int thread, int threads,
                                  const Finding& total) const {
    const bool present = a.counts[row] > 0;
    T* x = static_cast<T*>(a.logits) + row * a.vocabulary;
    const T* t = static_cast<const T*>(a.teacher) + row * a.vocabulary;
    const float lse_q = LogOf(total.q), lse_p = LogOf(total.p);
    const float slope = present ? *a.factor * a.inverse_temperature : 0.0f;
    for (int64_t c = int64_t{thread} * kPack; c < a.vocabulary; c += int64_t{threads} * kPack) {
      Pack<T, kPack> own = Load<T, kPack>(x + c);
      const Pack<T, kPack> theirs = Load<T, kPack>(t + c);
      for (int i = 0; i < kPack; ++i) {
        const float q = expf(ToFloat(own.values[i]) * a.inverse_temperature - lse_q);
        const float p = expf(ToFloat(theirs.values[i]) * a.inverse_temperature - lse_p);
        own.values[i] = FromFloat<T>(slope * (q - p));
      }
      Store<T, kPack>(own, x + c);
    }
    if (thread != 0) return;
    const double cross = total.dot / static_cast<double>(total.p.sum);
    a.losses[row] = present ? cross - (WideLogOf(total.p) - WideLogOf(total.q)) : 0.0;
  }
};

}  // namespace evolora
