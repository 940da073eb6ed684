#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "device/kernel_case_builder.h"

namespace evolora::testing {
namespace {

double LogSum(const double* x, int64_t width) {
  const double max = *std::max_element(x, x + width);
  double sum = 0;
  for (int64_t i = 0; i < width; ++i) sum += std::exp(x[i] - max);
  return max + std::log(sum);
}

Values RandomLabels(Builder& b, int64_t rows, int64_t vocabulary) {
  Values ids;
  for (int64_t m = 0; m < rows; ++m) ids.push_back(static_cast<double>(b.Below(vocabulary)));
  return b.Given("ids", Kind::kInt32, ids);
}

}  // namespace

KernelCase LabelLogProbsCase(ElementType type, int64_t rows, int64_t vocabulary) {
  Builder b(absl::StrCat("label_log_probs ", rows, " x ", vocabulary), type, 13);
  const Values logits = b.Input("logits", b.element(), rows * vocabulary, 8);
  const Values ids = RandomLabels(b, rows, vocabulary);
  Values log_sums, log_probs;
  for (int64_t m = 0; m < rows; ++m) {
    const double* x = Row(logits, m, vocabulary);
    log_sums.push_back(LogSum(x, vocabulary));
    log_probs.push_back(x[static_cast<int64_t>(ids[static_cast<size_t>(m)])] - log_sums.back());
  }
  b.Output("log_sums", Kind::kFloat64, log_sums);
  b.Output("log_probs", Kind::kFloat64, log_probs);
  return b.Finish([=](const DeviceKernels& k, const std::vector<void*>& d, void* stream) {
    return k.label_log_probs({.type = type,
                              .logits = d[0],
                              .rows = rows,
                              .vocabulary = vocabulary,
                              .ids = static_cast<const int32_t*>(d[1]),
                              .log_sums = static_cast<double*>(d[2]),
                              .log_probs = static_cast<double*>(d[3])},
                             stream);
  });
}

KernelCase LabelGradientCase(ElementType type, int64_t rows, int64_t vocabulary) {
  constexpr double kFactor = 0.25;
  Builder b(absl::StrCat("label_gradient ", rows, " x ", vocabulary), type, 14);
  Values logits = b.Input("logits", b.element(), rows * vocabulary, 8);
  const Values ids = RandomLabels(b, rows, vocabulary);
  Values log_sums;
  for (int64_t m = 0; m < rows; ++m)
    log_sums.push_back(LogSum(Row(logits, m, vocabulary), vocabulary));
  b.Given("log_sums", Kind::kFloat64, log_sums);
  const Values weights = b.Input("weights", Kind::kFloat64, rows, 2);
  b.Given("factor", Kind::kFloat32, {kFactor});
  for (int64_t m = 0; m < rows; ++m) {
    const auto row = static_cast<size_t>(m);
    for (int64_t i = 0; i < vocabulary; ++i) {
      double& x = Row(logits, m, vocabulary)[i];
      const double hit = i == static_cast<int64_t>(ids[row]) ? 1 : 0;
      x = kFactor * weights[row] * (std::exp(x - log_sums[row]) - hit);
    }
  }
  b.Becomes(0, logits);
  return b.Finish([=](const DeviceKernels& k, const std::vector<void*>& d, void* stream) {
    return k.label_gradient({.type = type,
                             .logits = d[0],
                             .rows = rows,
                             .vocabulary = vocabulary,
                             .ids = static_cast<const int32_t*>(d[1]),
                             .log_sums = static_cast<const double*>(d[2]),
                             .weights = static_cast<const double*>(d[3]),
                             .factor = static_cast<const float*>(d[4])},
                            stream);
  });
}

// Every third label is padding. The formula is label_loss.h's, which the losses' tests hold.
KernelCase PolicyLossCase(int64_t labels, bool cispo) {
  const PolicyForm form = {.cispo = cispo, .low = 0.8, .high = 1.2, .kl_beta = 0.1};
  Builder b(absl::StrCat("policy_loss ", labels, cispo ? ", cispo" : ""), ElementType::kFloat32,
            15);
  const Values log_probs = b.Input("log_probs", Kind::kFloat64, labels, 0.5, -2);
  const Values old = b.Input("old_log_probs", Kind::kFloat64, labels, 0.5, -2);
  const Values references = b.Input("references", Kind::kFloat64, labels, 0.5, -2);
  const Values advantages = b.Input("advantages", Kind::kFloat64, labels, 2);
  const Values shares = b.Input("shares", Kind::kFloat64, labels, 0.2, 0.5);
  Values counts, weights, terms;
  for (size_t i = 0; i < log_probs.size(); ++i) {
    counts.push_back(i % 3 == 2 ? 0 : 1);
    const PolicyTerm term =
        PolicyTermOf(form, {log_probs[i], old[i], references[i], advantages[i]});
    const double here = counts.back();
    weights.push_back(here * shares[i] * term.weight);
    for (const double value : {shares[i] * term.loss, 1.0, term.ratio, term.clipped, term.old_kl}) {
      terms.push_back(here * value);
    }
  }
  b.Given("counts", Kind::kInt32, counts);
  b.Output("weights", Kind::kFloat64, weights);
  b.Output("terms", Kind::kFloat64, terms);
  return b.Finish([=](const DeviceKernels& k, const std::vector<void*>& d, void* stream) {
    return k.policy_loss({.form = form,
                          .labels = labels,
                          .log_probs = static_cast<const double*>(d[0]),
                          .old_log_probs = static_cast<const double*>(d[1]),
                          .references = static_cast<const double*>(d[2]),
                          .advantages = static_cast<const double*>(d[3]),
                          .shares = static_cast<const double*>(d[4]),
                          .counts = static_cast<const int32_t*>(d[5]),
                          .weights = static_cast<double*>(d[6]),
                          .terms = static_cast<double*>(d[7])},
                         stream);
  });
}

// Pairs of answers of one label to hundreds, and one of padding at the end.
KernelCase DpoLossCase(int64_t pairs) {
  const DpoForm form = {.beta = 0.3, .smoothing = 0.1};
  Builder b(absl::StrCat("dpo_loss ", pairs), ElementType::kFloat32, 16);
  Values answers;
  double label = 0;
  for (int64_t p = 0; p + 1 < pairs; ++p) {
    for (const int64_t count : {1 + 70 * p, 300 - 50 * p}) {
      answers.push_back(label);
      label += static_cast<double>(count);
      answers.push_back(label);
    }
  }
  for (int i = 0; i < 4; ++i) answers.push_back(label);
  const Values log_probs =
      b.Input("log_probs", Kind::kFloat64, static_cast<int64_t>(label) + 1, 1, -1);
  b.Given("answers", Kind::kInt32, answers);
  const Values references = b.Input("references", Kind::kFloat64, 2 * pairs, 20, -150);
  Values weights(log_probs.size(), 77), terms;
  for (size_t p = 0; p < static_cast<size_t>(pairs); ++p) {
    double sums[2] = {0, 0};
    for (size_t side = 0; side < 2; ++side) {
      for (double i = answers[4 * p + 2 * side]; i < answers[4 * p + 2 * side + 1]; ++i) {
        sums[side] += log_probs[static_cast<size_t>(i)];
      }
    }
    const DpoTerm term =
        DpoTermOf(form, sums[0] - references[2 * p], sums[1] - references[2 * p + 1]);
    for (size_t side = 0; side < 2; ++side) {
      for (double i = answers[4 * p + 2 * side]; i < answers[4 * p + 2 * side + 1]; ++i) {
        weights[static_cast<size_t>(i)] = (side == 0 ? 1 : -1) * term.chosen_weight;
      }
    }
    const double here = p + 1 < static_cast<size_t>(pairs) ? 1 : 0;
    const double right = term.reward_chosen > term.reward_rejected ? 1 : 0;
    for (const double value : {term.loss, 1.0, term.reward_chosen, term.reward_rejected, right}) {
      terms.push_back(here * value);
    }
  }
  b.Output("weights", Kind::kFloat64, weights);
  b.Output("terms", Kind::kFloat64, terms);
  return b.Finish([=](const DeviceKernels& k, const std::vector<void*>& d, void* stream) {
    return k.dpo_loss({.form = form,
                       .pairs = pairs,
                       .log_probs = static_cast<const double*>(d[0]),
                       .answers = static_cast<const int32_t*>(d[1]),
                       .references = static_cast<const double*>(d[2]),
                       .weights = static_cast<double*>(d[3]),
                       .terms = static_cast<double*>(d[4])},
                      stream);
  });
}

namespace {

// Rows of softmaxes over the values times `inverse_temperature`.
Values Softmax(const Values& x, int64_t width, double inverse_temperature) {
  Values out = x;
  for (size_t begin = 0; begin < x.size(); begin += static_cast<size_t>(width)) {
    double* row = out.data() + begin;
    for (int64_t i = 0; i < width; ++i) row[i] *= inverse_temperature;
    const double log_sum = LogSum(row, width);
    for (int64_t i = 0; i < width; ++i) row[i] = std::exp(row[i] - log_sum);
  }
  return out;
}

constexpr double kDistillFactor = 0.25, kInverseTemperature = 0.5;

}  // namespace

// The last row is padding.
KernelCase DistillTopCase(ElementType type, int64_t rows, int64_t vocabulary, int64_t kept) {
  Builder b(absl::StrCat("distill_top ", kept, " of ", rows, " x ", vocabulary), type, 17);
  Values logits = b.Input("logits", b.element(), rows * vocabulary, 8);
  const Values q = Softmax(logits, vocabulary, kInverseTemperature);
  Values ids, log_probs, log_rests, counts(static_cast<size_t>(rows), 1), losses;
  counts.back() = 0;
  const double p = 0.75 / static_cast<double>(kept);  // of each kept token
  for (int64_t m = 0; m < rows; ++m) {
    double* d = Row(logits, m, vocabulary);
    const double* own = Row(q, m, vocabulary);
    const double here = counts[static_cast<size_t>(m)];
    double rest = 1;
    for (int64_t k = 0; k < kept; ++k) {
      const int64_t id = (k * vocabulary + m) / (kept + 1);
      ids.push_back(static_cast<double>(id));
      log_probs.push_back(std::log(p));
      losses.push_back(here * p * std::log(p / own[id]));
      rest -= own[id];
    }
    log_rests.push_back(std::log(0.25));
    losses.push_back(here * 0.25 * std::log(0.25 / rest));
    const double scale = here * kDistillFactor * kInverseTemperature;
    for (int64_t i = 0; i < vocabulary; ++i) d[i] = scale * own[i] * (1 - 0.25 / rest);
    for (int64_t k = 0; k < kept; ++k) {
      const auto id = static_cast<int64_t>(ids[static_cast<size_t>(m * kept + k)]);
      d[id] = scale * (own[id] - p);
    }
  }
  b.Becomes(0, logits);
  b.Given("ids", Kind::kInt32, ids);
  b.Given("log_probs", Kind::kFloat64, log_probs);
  b.Given("log_rests", Kind::kFloat64, log_rests);
  b.Given("counts", Kind::kInt32, counts);
  b.Given("factor", Kind::kFloat32, {kDistillFactor});
  b.Output("losses", Kind::kFloat64, losses);
  return b.Finish([=](const DeviceKernels& k, const std::vector<void*>& d, void* stream) {
    return k.distill_top({.type = type,
                          .logits = d[0],
                          .rows = rows,
                          .vocabulary = vocabulary,
                          .kept = kept,
                          .ids = static_cast<const int32_t*>(d[1]),
                          .log_probs = static_cast<const double*>(d[2]),
                          .log_rests = static_cast<const double*>(d[3]),
                          .counts = static_cast<const int32_t*>(d[4]),
                          .inverse_temperature = static_cast<float>(kInverseTemperature),
                          .factor = static_cast<const float*>(d[5]),
                          .losses = static_cast<double*>(d[6])},
                         stream);
  });
}

KernelCase DistillWholeCase(ElementType type, int64_t rows, int64_t vocabulary) {
  Builder b(absl::StrCat("distill_whole ", rows, " x ", vocabulary), type, 18);
  Values logits = b.Input("logits", b.element(), rows * vocabulary, 8);
  const Values teacher = b.Input("teacher", b.element(), rows * vocabulary, 8);
  const Values q = Softmax(logits, vocabulary, kInverseTemperature);
  const Values p = Softmax(teacher, vocabulary, kInverseTemperature);
  Values counts(static_cast<size_t>(rows), 1), losses(static_cast<size_t>(rows));
  counts.back() = 0;
  for (size_t i = 0; i < q.size(); ++i) {
    const size_t m = i / static_cast<size_t>(vocabulary);
    losses[m] += counts[m] * p[i] * std::log(p[i] / q[i]);
    logits[i] = counts[m] * kDistillFactor * kInverseTemperature * (q[i] - p[i]);
  }
  b.Becomes(0, logits);
  b.Given("counts", Kind::kInt32, counts);
  b.Given("factor", Kind::kFloat32, {kDistillFactor});
  b.Output("losses", Kind::kFloat64, losses);
  return b.Finish([=](const DeviceKernels& k, const std::vector<void*>& d, void* stream) {
    return k.distill_whole({.type = type,
                            .logits = d[0],
                            .teacher = d[1],
                            .rows = rows,
                            .vocabulary = vocabulary,
                            .counts = static_cast<const int32_t*>(d[2]),
                            .inverse_temperature = static_cast<float>(kInverseTemperature),
                            .factor = static_cast<const float*>(d[3]),
                            .losses = static_cast<double*>(d[4])},
                           stream);
  });
}

}  // namespace evolora::testing
