#include <algorithm>
#include <cmath>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "device/kernel_case_builder.h"

namespace evolora::testing {

// Rows of no, one and several targets; logits up to `scale`, of which one stands out.
KernelCase CrossEntropyCase(ElementType type, int64_t rows, int64_t vocabulary, double scale) {
  Builder b(absl::StrCat("cross_entropy ", rows, " x ", vocabulary, " up to ", scale), type, 7);
  constexpr double kFactor = 0.25;
  Values logits = b.Input("logits", b.element(), rows * vocabulary, scale);
  Values first_target = {0}, ids, counts, losses;
  for (int64_t m = 0; m < rows; ++m) {
    double* x = Row(logits, m, vocabulary);
    const double max = *std::max_element(x, x + vocabulary);
    double sum = 0;
    for (int64_t i = 0; i < vocabulary; ++i) sum += std::exp(x[i] - max);
    const double lse = max + std::log(sum);
    const int64_t targets = std::min(vocabulary, m % 4);
    const int64_t step = std::max<int64_t>(1, vocabulary / 4);
    double hits = 0;
    for (int64_t k = 0; k < targets; ++k) {
      ids.push_back(static_cast<double>(k * step));
      counts.push_back(static_cast<double>(1 + k));
      losses.push_back(counts.back() * (lse - x[k * step]));
      hits += counts.back();
    }
    first_target.push_back(static_cast<double>(ids.size()));
    for (int64_t i = 0; i < vocabulary; ++i) x[i] = kFactor * hits * std::exp(x[i] - lse);
    for (int64_t k = 0; k < targets; ++k) x[k * step] -= kFactor * static_cast<double>(1 + k);
  }
  b.Becomes(0, logits);
  b.Given("first_target", Kind::kInt32, first_target);
  b.Given("ids", Kind::kInt32, ids);
  b.Given("counts", Kind::kInt32, counts);
  b.Output("losses", Kind::kFloat32, losses);
  b.Given("factor", Kind::kFloat32, {kFactor});
  return b.Finish([=](const DeviceKernels& k, const std::vector<void*>& d, void* stream) {
    return k.cross_entropy({.type = type,
                            .logits = d[0],
                            .rows = rows,
                            .vocabulary = vocabulary,
                            .first_target = static_cast<const int32_t*>(d[1]),
                            .ids = static_cast<const int32_t*>(d[2]),
                            .counts = static_cast<const int32_t*>(d[3]),
                            .losses = static_cast<float*>(d[4]),
                            .factor = static_cast<const float*>(d[5])},
                           stream);
  });
}

KernelCase GradientNormCase(int64_t count, double max_norm) {
  Builder b(absl::StrCat("gradient_norm ", count, ", limit ", max_norm), ElementType::kFloat32, 8);
  const Values gradient = b.Input("gradient", Kind::kFloat32, count, 1);
  b.Given("partials", Kind::kFloat64, Values(kNormPartials, 77));
  const double norm =
      std::sqrt(std::inner_product(gradient.begin(), gradient.end(), gradient.begin(), 0.0));
  const double clip = max_norm > 0 ? std::min(1.0, max_norm / (norm + 1e-6)) : 1;
  b.Output("norm_clip", Kind::kFloat32, {norm, clip});
  return b.Finish([=](const DeviceKernels& k, const std::vector<void*>& d, void* stream) {
    return k.gradient_norm({.gradient = static_cast<const float*>(d[0]),
                            .count = count,
                            .max_norm = static_cast<float>(max_norm),
                            .partials = static_cast<double*>(d[1]),
                            .norm_clip = static_cast<float*>(d[2])},
                           stream);
  });
}

KernelCase AdamWCase(int64_t count, double clip, bool groups) {
  static constexpr double kRates[2] = {1e-2, 5e-2};
  Builder b(absl::StrCat("adamw ", count, ", clip ", clip, groups ? ", groups" : ""),
            ElementType::kFloat32, 9);
  constexpr double kBeta1 = 0.9, kBeta2 = 0.99, kEpsilon = 1e-6, kDecay = 0.1;
  constexpr int64_t kStep = 3;
  Values value = b.Input("value", Kind::kFloat32, count, 1);
  const Values gradient = b.Input("gradient", Kind::kFloat32, count, 1);
  Values moment1 = b.Input("moment1", Kind::kFloat32, count, 0.5);
  Values moment2 = b.Input("moment2", Kind::kFloat32, count, 0.2, 0.3);
  b.Given("clip", Kind::kFloat32, {clip});
  Values group(static_cast<size_t>(count));
  for (double& g : group) g = static_cast<double>(b.Below(2));
  b.Given("groups", Kind::kByte, group);
  for (size_t i = 0; i < value.size() && !std::isnan(clip); ++i) {
    const double g = gradient[i] * clip, rate = kRates[groups ? static_cast<int>(group[i]) : 0];
    moment1[i] = kBeta1 * moment1[i] + (1 - kBeta1) * g;
    moment2[i] = kBeta2 * moment2[i] + (1 - kBeta2) * g * g;
    const double first = moment1[i] / (1 - std::pow(kBeta1, kStep));
    const double second = moment2[i] / (1 - std::pow(kBeta2, kStep));
    value[i] -= rate * kDecay * value[i] + rate * first / (std::sqrt(second) + kEpsilon);
  }
  b.Becomes(0, value);
  b.Becomes(2, moment1);
  b.Becomes(3, moment2);
  return b.Finish([=](const DeviceKernels& k, const std::vector<void*>& d, void* stream) {
    return k.adamw({.value = static_cast<float*>(d[0]),
                    .gradient = static_cast<const float*>(d[1]),
                    .moment1 = static_cast<float*>(d[2]),
                    .moment2 = static_cast<float*>(d[3]),
                    .count = count,
                    .clip = static_cast<const float*>(d[4]),
                    .groups = groups ? static_cast<const uint8_t*>(d[5]) : nullptr,
                    .rates = {kRates[0], kRates[1]},
                    .beta1 = kBeta1,
                    .beta2 = kBeta2,
                    .epsilon = kEpsilon,
                    .weight_decay = kDecay,
                    .step = kStep},
                   stream);
  });
}

}  // namespace evolora::testing
