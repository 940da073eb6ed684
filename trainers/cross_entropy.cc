#include <vector>

#include "token_loss.h"

namespace evolora {
namespace {

using Target = TokenLayout::Target;

// Loss of one row; its logits become factor * d loss / d logits = factor * (count * softmax -
// hits).
double RowLoss(absl::Span<const Target> targets, int64_t vocabulary, double factor, float* logits) {
  const double lse = Kernels().log_sum_exp(logits, vocabulary);
  double loss = 0;
  int64_t count = 0;
  for (const Target& target : targets) {
    loss += static_cast<double>(target.count) * (lse - static_cast<double>(logits[target.id]));
    count += target.count;
  }
  Kernels().exp_shifted(logits, vocabulary, static_cast<float>(lse),
                        static_cast<float>(factor * static_cast<double>(count)));
  for (const Target& target : targets) {
    logits[target.id] -= static_cast<float>(factor * static_cast<double>(target.count));
  }
  return loss;
}

class CrossEntropy : public Loss {
 public:
  explicit CrossEntropy(absl::Span<const TrainingRow> rows) : rows_(rows) {}

  absl::Span<const TrainingRow> sequences() const override { return rows_; }

  double StepWeight(absl::Span<const int64_t> step_rows) const override {
    int64_t labels = 0;
    for (const int64_t i : step_rows) labels += NumTargets(rows_[static_cast<size_t>(i)].labels);
    return static_cast<double>(labels);
  }

  double LossAndGradient(const LogitsChunk& chunk, double factor) override {
    std::vector<double> losses(static_cast<size_t>(chunk.num_rows));
    ForLogitsRows(chunk, [&](int64_t m, absl::Span<const Target> targets) {
      losses[static_cast<size_t>(m)] =
          RowLoss(targets, chunk.vocabulary, factor, chunk.logits + m * chunk.vocabulary);
    });
    double sum = 0;
    for (const double loss : losses) sum += loss;
    return sum;
  }

  bool takes_batches_at_once() const override { return true; }

 private:
  absl::Span<const TrainingRow> rows_;
};

}  // namespace

std::unique_ptr<Loss> MakeCrossEntropy(absl::Span<const TrainingRow> rows) {
  return std::make_unique<CrossEntropy>(rows);
}

}  // namespace evolora
