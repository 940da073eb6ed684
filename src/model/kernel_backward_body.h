// The loops of the backward pass: a part of kernel_body.h, inside its unnamed namespace.

float RmsNormKeep(const float* x, const float* weight, int64_t n, float eps, float* unit,
                  float* y) {
  const float factor = RmsFactor(x, n, eps);
  for (int64_t j = 0; j < n; ++j) {
    const float value = x[j] * factor;
    unit[j] = value;
    y[j] = weight[j] * value;
  }
  return factor;
}

void RmsNormBackward(const float* dy, const float* weight, const float* unit, float factor,
                     int64_t n, float* dx) {
  double lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int j = 0; j < kLanes; ++j) {
      lanes[j] += static_cast<double>(weight[i + j] * dy[i + j]) * unit[i + j];
    }
  }
  for (; i < n; ++i) lanes[i % kLanes] += static_cast<double>(weight[i] * dy[i]) * unit[i];
  const float mean = RoundToFloat(SumLanes(lanes) / static_cast<double>(n));
  for (int64_t j = 0; j < n; ++j) dx[j] += factor * (weight[j] * dy[j] - unit[j] * mean);
}

void SiluMulBackward(float* gate, float* up, const float* dy, int64_t n, float* act) {
  ForLanes(n, [=](int64_t i, int64_t count) {
    const Lanes g = LoadAny(gate + i, count), u = LoadAny(up + i, count);
    const Lanes d = LoadAny(dy + i, count);
    const Lanes sigmoid = 1.0f / (1.0f + Exp(-g));
    const Lanes silu = g * sigmoid;
    StoreAny(act + i, count, silu * u);
    StoreAny(up + i, count, d * silu);
    StoreAny(gate + i, count, d * u * (sigmoid + silu * (1.0f - sigmoid)));
  });
}

void ExpShifted(float* x, int64_t n, float shift, float factor) {
  ForLanes(n, [=](int64_t i, int64_t count) {
    StoreAny(x + i, count, factor * Exp(LoadAny(x + i, count) - shift));
  });
}
