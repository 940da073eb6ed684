#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <map>
#include <numeric>
#include <string>
#include <vector>

#include "ATen/core/Tensor.h"
#include "ATen/ops/cat.h"
#include "absl/strings/str_cat.h"
#include "gradient_path.h"
#include "log_probs.h"
#include "loss.h"
#include "support/status_matchers.h"

namespace evolora::testing {

// A frozen model that says given logits: [targets, V] for each sequence.
class FixedLogits : public FrozenPass {
 public:
  explicit FixedLogits(std::vector<at::Tensor> logits) : logits_(std::move(logits)) {}

  absl::StatusOr<std::vector<at::Tensor>> TargetHidden(absl::Span<const TrainingRow>,
                                                       absl::Span<const int64_t> indices,
                                                       FrozenModel model) override {
    asked.push_back(model);
    std::vector<at::Tensor> hidden;
    for (const int64_t i : indices) hidden.push_back(logits_[static_cast<size_t>(i)]);
    return hidden;
  }
  void Logits(const float* hidden, int64_t rows, float* logits) override {
    std::copy_n(hidden, rows * vocabulary(), logits);
  }
  int64_t vocabulary() const override { return logits_.front().size(1); }

  std::vector<FrozenModel> asked;

 private:
  std::vector<at::Tensor> logits_;
};

// One logits row for each target of the loss's sequences, in order.
struct LossCase {
  std::vector<TokenLayout::Target> targets;
  std::vector<TokenLayout::Label> labels;

  explicit LossCase(const Loss& loss) {
    for (size_t s = 0; s < loss.sequences().size(); ++s) {
      const std::vector<TokenId>& ids = loss.sequences()[s].labels;
      int64_t ordinal = 0;
      for (size_t t = 1; t < ids.size(); ++t) {
        if (ids[t] == kIgnoreLabel) continue;
        const auto place = static_cast<int64_t>(targets.size());
        targets.push_back({place, ids[t], 1, place});
        labels.push_back({static_cast<int64_t>(s), ordinal++});
      }
    }
  }
  int64_t rows() const { return static_cast<int64_t>(targets.size()); }

  struct Result {
    double loss = 0;
    at::Tensor gradient;  // of factor * loss
  };
  Result Run(Loss& loss, const at::Tensor& logits_NV, double factor = 1) const {
    Result result{.gradient = logits_NV.detach().clone().contiguous()};
    const LogitsChunk chunk = {.logits = result.gradient.mutable_data_ptr<float>(),
                               .num_rows = rows(),
                               .vocabulary = logits_NV.size(1),
                               .targets = targets,
                               .labels = labels};
    if (loss.wants_log_probs()) {
      std::vector<double> log_probs(labels.size());
      LabelLogProbs(chunk, absl::MakeSpan(log_probs));
      result.loss += loss.TakeLogProbs(labels, log_probs);
    }
    result.loss += loss.LossAndGradient(chunk, factor);
    return result;
  }
};

// [0, num_rows): for Loss::Prepare.
inline std::vector<int64_t> AllRows(size_t num_rows) {
  std::vector<int64_t> rows(num_rows);
  std::iota(rows.begin(), rows.end(), 0);
  return rows;
}

// The loss's own gradient against central differences of its value, at every logit.
inline void ExpectFiniteDifferences(Loss& loss, const LossCase& c, const at::Tensor& logits_NV,
                                    double tolerance = 2e-4) {
  constexpr float kStep = 0.02f;
  const at::Tensor gradient = c.Run(loss, logits_NV).gradient;
  for (int64_t n = 0; n < logits_NV.size(0); ++n) {
    for (int64_t v = 0; v < logits_NV.size(1); ++v) {
      double values[2];
      for (const int side : {0, 1}) {
        at::Tensor moved = logits_NV.detach().clone();
        moved.select(0, n).select(0, v).add_(side == 0 ? -kStep : kStep);
        values[side] = c.Run(loss, moved).loss;
      }
      EXPECT_NEAR(gradient.select(0, n).select(0, v).item<double>(),
                  (values[1] - values[0]) / (2 * static_cast<double>(kStep)), tolerance)
          << "row " << n << ", logit " << v;
    }
  }
}

// `value` is the formula over `logits_NV`, which requires a gradient.
inline void ExpectAutograd(Loss& loss, const LossCase& c, const at::Tensor& logits_NV,
                           const at::Tensor& value) {
  value.backward();
  const LossCase::Result result = c.Run(loss, logits_NV, 0.5);
  EXPECT_NEAR(result.loss, value.item<double>(), 1e-5 * std::max(1.0, std::abs(result.loss)));
  const at::Tensor expected = logits_NV.grad().mul(0.5);
  EXPECT_LT(result.gradient.sub(expected).abs().max().item<double>(), 2e-6);
}

}  // namespace evolora::testing
