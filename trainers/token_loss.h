#pragma once

#include <algorithm>
#include <vector>

#include "ATen/Parallel.h"
#include "evolora/model/kernels.h"
#include "loss.h"

namespace evolora {

// Calls body(row, its targets) for each logits row of the chunk, on all threads.
template <typename Body>
void ForLogitsRows(const LogitsChunk& chunk, const Body& body) {
  const auto first_of = [&](int64_t row) {
    return static_cast<size_t>(
        std::lower_bound(
            chunk.targets.begin(), chunk.targets.end(), chunk.first_row + row,
            [](const TokenLayout::Target& target, int64_t r) { return target.row < r; }) -
        chunk.targets.begin());
  };
  at::parallel_for(0, chunk.num_rows, 1, [&](int64_t begin, int64_t end) {
    for (int64_t m = begin; m < end; ++m) {
      const size_t from = first_of(m);
      body(m, chunk.targets.subspan(from, first_of(m + 1) - from));
    }
  });
}

// What a label adds: its loss, and d loss / d(-log p) of its target.
struct LabelLoss {
  double loss = 0;
  double weight = 0;
};

// LossAndGradient of a loss that sees the logits only through the log-probabilities of the labels'
// targets: label_loss(i, log p) -> LabelLoss for chunk.labels[i], called from several threads.
template <typename LabelLossOf>
double LogProbLoss(const LogitsChunk& chunk, double factor, const LabelLossOf& label_loss) {
  std::vector<double> losses(static_cast<size_t>(chunk.num_rows));
  ForLogitsRows(chunk, [&](int64_t m, absl::Span<const TokenLayout::Target> targets) {
    float* logits = chunk.logits + m * chunk.vocabulary;
    const double lse = Kernels().log_sum_exp(logits, chunk.vocabulary);
    double loss = 0, total_weight = 0;
    std::vector<double> weights;
    for (const TokenLayout::Target& target : targets) {
      const double log_prob = static_cast<double>(logits[target.id]) - lse;
      double weight = 0;
      for (int64_t i = 0; i < target.count; ++i) {
        const LabelLoss one = label_loss(static_cast<size_t>(target.first_label + i), log_prob);
        loss += one.loss;
        weight += one.weight;
      }
      weights.push_back(weight);
      total_weight += weight;
    }
    // d(sum of -w log p(target)) / d logits = (sum of w) softmax - w at the targets.
    Kernels().exp_shifted(logits, chunk.vocabulary, static_cast<float>(lse),
                          static_cast<float>(factor * total_weight));
    for (size_t i = 0; i < targets.size(); ++i) {
      logits[targets[i].id] -= static_cast<float>(factor * weights[i]);
    }
    losses[static_cast<size_t>(m)] = loss;
  });
  double sum = 0;
  for (const double loss : losses) sum += loss;
  return sum;
}

}  // namespace evolora
