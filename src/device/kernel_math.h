#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "evolora/device/dropout_draw.h"
#include "evolora/device/host_device.h"

// What kernels are made of: numbers as they are stored, packs of them, and the formulas of one
// element. Compiled for the CPU and for CUDA.
namespace evolora {

// The upper half of an fp32.
struct BFloat16 {
  uint16_t bits;
};

EVOLORA_HOST_DEVICE inline float ToFloat(float x) { return x; }
EVOLORA_HOST_DEVICE inline float ToFloat(BFloat16 x) {
  const uint32_t bits = static_cast<uint32_t>(x.bits) << 16;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

// Rounds to nearest, ties to even; NaN stays NaN.
template <class T>
EVOLORA_HOST_DEVICE inline T FromFloat(float x);
template <>
EVOLORA_HOST_DEVICE inline float FromFloat<float>(float x) {
  return x;
}
template <>
EVOLORA_HOST_DEVICE inline BFloat16 FromFloat<BFloat16>(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return {0x7fc0};
  bits += 0x7fffu + ((bits >> 16) & 1u);
  return {static_cast<uint16_t>(bits >> 16)};
}
template <class T>
EVOLORA_HOST_DEVICE inline float Rounded(float x) {
  return ToFloat(FromFloat<T>(x));
}

// kCount neighbours, read and written in one access.
template <class T, int kCount>
struct alignas(sizeof(T) * kCount) Pack {
  T values[kCount];
};
template <class T, int kCount>
EVOLORA_HOST_DEVICE inline Pack<T, kCount> Load(const T* data) {
  return *reinterpret_cast<const Pack<T, kCount>*>(data);
}
template <class T, int kCount>
EVOLORA_HOST_DEVICE inline void Store(const Pack<T, kCount>& pack, T* data) {
  *reinterpret_cast<Pack<T, kCount>*>(data) = pack;
}

EVOLORA_HOST_DEVICE inline float RmsFactor(float sum_of_squares, int64_t width, float eps) {
  return 1.0f / sqrtf(sum_of_squares / static_cast<float>(width) + eps);
}

// d loss / d x of y = weight * unit, unit = x * factor; mean = mean(weight * dy * unit).
EVOLORA_HOST_DEVICE inline float RmsGradient(float weighted_dy, float unit, float factor,
                                             float mean) {
  return factor * (weighted_dy - unit * mean);
}

// A pair of a head: elements j and j + half.
struct Turned {
  float first;
  float second;
};
EVOLORA_HOST_DEVICE inline Turned Turn(float first, float second, float cos, float sin) {
  return {first * cos - second * sin, second * cos + first * sin};
}

struct SwiGluGradient {
  float gate;
  float up;
  float act;
};
EVOLORA_HOST_DEVICE inline float SwiGlu(float gate, float up) {
  return gate / (1.0f + expf(-gate)) * up;
}
EVOLORA_HOST_DEVICE inline SwiGluGradient SwiGluBackward(float gate, float up, float d_act) {
  const float sigmoid = 1.0f / (1.0f + expf(-gate));
  const float silu = gate * sigmoid;
  return {d_act * up * (sigmoid + silu * (1.0f - sigmoid)), d_act * silu, silu * up};
}

// A sum of exponentials, sum * exp(max): of nothing, or of a part of a row.
struct ExpSum {
  float max = -3.402823466e38f;
  float sum = 0;
};
EVOLORA_HOST_DEVICE inline ExpSum Join(const ExpSum& a, const ExpSum& b) {
  const float max = a.max > b.max ? a.max : b.max;
  return {max, a.sum * expf(a.max - max) + b.sum * expf(b.max - max)};
}
// Of the packs of a row that are a thread's own.
template <class T, int kPack>
EVOLORA_HOST_DEVICE inline ExpSum ExpSumOf(const T* x, int64_t width, int thread, int threads) {
  ExpSum s;
  for (int64_t c = int64_t{thread} * kPack; c < width; c += int64_t{threads} * kPack) {
    const Pack<T, kPack> in = Load<T, kPack>(x + c);
    float max = s.max;
    for (int i = 0; i < kPack; ++i) {
      const float value = ToFloat(in.values[i]);
      max = value > max ? value : max;
    }
    s.sum *= expf(s.max - max);
    s.max = max;
    for (int i = 0; i < kPack; ++i) s.sum += expf(ToFloat(in.values[i]) - max);
  }
  return s;
}
EVOLORA_HOST_DEVICE inline float LogOf(const ExpSum& s) { return s.max + logf(s.sum); }
EVOLORA_HOST_DEVICE inline double WideLogOf(const ExpSum& s) {
  return static_cast<double>(s.max) + log(static_cast<double>(s.sum));
}

struct AdamWState {
  float value;
  float moment1;
  float moment2;
};
// The numbers of one step that all elements share.
struct AdamWStep {
  float keep;  // 1 - rate * weight_decay
  float size;  // rate / (1 - beta1^step)
  float beta1;
  float beta2;
  float root;  // 1 / sqrt(1 - beta2^step)
  float epsilon;
};
EVOLORA_HOST_DEVICE inline AdamWState AdamW(const AdamWState& s, float gradient,
                                            const AdamWStep& step) {
  const float moment1 = s.moment1 + (1.0f - step.beta1) * (gradient - s.moment1);
  const float moment2 = step.beta2 * s.moment2 + (1.0f - step.beta2) * gradient * gradient;
  const float denominator = sqrtf(moment2) * step.root + step.epsilon;
  return {s.value * step.keep - step.size * moment1 / denominator, moment1, moment2};
}

}  // namespace evolora
