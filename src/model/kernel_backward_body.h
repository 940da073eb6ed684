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
  for (int64_t i = 0; i < n; ++i) {
    const float g = gate[i];
    const float u = up[i];
    const float d = dy[i];
    const float sigmoid = 1.0f / (1.0f + Exp(-g));
    const float silu = g * sigmoid;
    act[i] = silu * u;
    up[i] = d * silu;
    gate[i] = d * u * (sigmoid + silu * (1.0f - sigmoid));
  }
}

void ExpShifted(float* x, int64_t n, float shift, float factor) {
  for (int64_t i = 0; i < n; ++i) x[i] = factor * Exp(x[i] - shift);
}

void SoftmaxBackward(const float* p, float* dp, int64_t n, float scale) {
  double lanes[kLanes] = {};
  int64_t i = 0;
  for (; i + kLanes <= n; i += kLanes) {
    for (int j = 0; j < kLanes; ++j) lanes[j] += static_cast<double>(p[i + j]) * dp[i + j];
  }
  for (; i < n; ++i) lanes[i % kLanes] += static_cast<double>(p[i]) * dp[i];
  const float sum = RoundToFloat(SumLanes(lanes));
  for (int64_t j = 0; j < n; ++j) dp[j] = scale * p[j] * (dp[j] - sum);
}
