// Passes over the values of a row: a part of kernel_body.h, inside its unnamed namespace.

void Add(const float* x, int64_t n, float* y) {
  ForLanes(n, [=](int64_t i, int64_t count) {
    StoreAny(y + i, count, LoadAny(y + i, count) + LoadAny(x + i, count));
  });
}

inline float RmsFactor(const float* x, int64_t n, float eps) {
  double lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int j = 0; j < kLanes; ++j) lanes[j] += static_cast<double>(x[i + j]) * x[i + j];
  }
  for (; i < n; ++i) lanes[i % kLanes] += static_cast<double>(x[i]) * x[i];
  const float mean = RoundToFloat(SumLanes(lanes) / static_cast<double>(n));
  return 1.0f / __builtin_sqrtf(mean + eps);
}

void RmsNorm(const float* x, const float* weight, int64_t n, float eps, float* y) {
  const float factor = RmsFactor(x, n, eps);
  for (int64_t j = 0; j < n; ++j) y[j] = weight[j] * (x[j] * factor);
}

// Heads of 8 values, each one vector.
inline void RotateNarrow(float* heads, int64_t count, const float* cos, const float* sin) {
  const HalfLanes c = {cos[0], cos[1], cos[2], cos[3], cos[0], cos[1], cos[2], cos[3]};
  const HalfLanes s = {-sin[0], -sin[1], -sin[2], -sin[3], sin[0], sin[1], sin[2], sin[3]};
  HalfLanes* head = reinterpret_cast<HalfLanes*>(heads);
  for (int64_t h = 0; h < count; ++h) {
    head[h] = head[h] * c + __builtin_shufflevector(head[h], head[h], 4, 5, 6, 7, 0, 1, 2, 3) * s;
  }
}

void Rotate(float* heads, int64_t count, const float* cos, const float* sin, int64_t half) {
  if (half == 4) return RotateNarrow(heads, count, cos, sin);
  for (float* head = heads; head < heads + count * 2 * half; head += 2 * half) {
    for (int64_t i = 0; i < half; ++i) {
      const float a = head[i];
      const float b = head[i + half];
      head[i] = a * cos[i] - b * sin[i];
      head[i + half] = b * cos[i] + a * sin[i];
    }
  }
}

void SiluMul(const float* gate, const float* up, int64_t n, float* y) {
  ForLanes(n, [=](int64_t i, int64_t count) {
    const Lanes g = LoadAny(gate + i, count);
    StoreAny(y + i, count, g / (1.0f + Exp(-g)) * LoadAny(up + i, count));
  });
}

inline float Max(const float* x, int64_t n) {
  Lanes most = Splat(x[0]);
  ForLanes(n, [&](int64_t i, int64_t count) {
    const Lanes values = LoadAny(x + i, count, x[0]);
    most = values > most ? values : most;
  });
  return MaxLanes(most);
}

void Softmax(float* x, int64_t n, float scale) {
  const float max = Max(x, n);
  Lanes sums = {};
  ForLanes(n, [&](int64_t i, int64_t count) {
    const Lanes values = Exp((LoadAny(x + i, count, max) - max) * scale);
    StoreAny(x + i, count, values);
    sums += count == kLanes ? values : FirstOf(values, count);
  });
  const float factor = RoundToFloat(1.0 / SumLanes(sums));
  for (int64_t j = 0; j < n; ++j) x[j] *= factor;
}

double LogSumExp(const float* x, int64_t n) {
  const float max = Max(x, n);
  double lanes[kLanes] = {};
  for (int64_t i = 0; i < n;) {
    // In fp32 only as far as no digit is lost.
    Lanes part = {};
    const int64_t end = n - i > 16 * kLanes ? i + 16 * kLanes : n;
    for (; i + kLanes <= end; i += kLanes) part += Exp(LoadLanes(x + i) - max);
    if (i < end) {
      part += FirstOf(Exp(LoadSome(x + i, end - i, max) - max), end - i);
      i = end;
    }
    for (int j = 0; j < kLanes; ++j) lanes[j] += static_cast<double>(part[j]);
  }
  return static_cast<double>(max) + __builtin_log(SumLanes(lanes));
}
